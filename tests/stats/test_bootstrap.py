import numpy as np
import pytest

from preftune.errors import DataError
from preftune.stats.bootstrap import (
    bootstrap_means,
    bootstrap_ratios,
    mean_interval,
    share_interval,
)
from preftune.stats.intervals import clustered_se


def correlated_wins(
    rng: np.random.Generator, prompts: int, samples: int = 4
) -> tuple[list[float], list[int]]:
    """Draw wins whose chance is the prompt's own, uniform in 0..1: true mean ½."""
    chance = rng.uniform(size=prompts)
    wins = rng.uniform(size=(prompts, samples)) < chance[:, None]
    return wins.ravel().astype(float).tolist(), np.repeat(np.arange(prompts), samples).tolist()


def test_bootstrap_spread_agrees_with_the_clustered_error_within_a_tenth() -> None:
    for seed in range(3):
        values, prompts = correlated_wins(np.random.default_rng(seed), 150)
        spread = bootstrap_means(values, prompts, seed=seed).std()
        assert spread == pytest.approx(clustered_se(values, prompts), rel=0.1)


def test_equal_seeds_give_equal_draws_and_other_seeds_others() -> None:
    values, prompts = correlated_wins(np.random.default_rng(0), 20)
    one, same = (bootstrap_means(values, prompts, seed=7) for _ in range(2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, bootstrap_means(values, prompts, seed=8))


def test_order_of_items_changes_no_mean() -> None:
    values, prompts = [1.0, 0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b", "b"]
    draws = bootstrap_means(values, prompts)
    # a drawn twice: 2/4, one each: 3/5, b drawn twice: 4/6
    assert set(np.round(draws, 12)) == set(np.round([2 / 4, 3 / 5, 4 / 6], 12))


def test_ratio_draws_both_sides_from_the_same_prompts() -> None:
    draws = bootstrap_ratios([2.0, 20.0], [1.0, 10.0], ["a", "b"])
    assert draws == pytest.approx(np.full(2000, 2.0))


def test_naive_interval_under_covers_and_clustered_covers_with_4_samples_per_prompt() -> None:
    naive = clustered = 0
    for seed in range(200):
        values, prompts = correlated_wins(np.random.default_rng(seed), 60)
        alone = mean_interval(values, list(range(len(values))), rounds=1000, seed=seed)
        grouped = mean_interval(values, prompts, rounds=1000, seed=seed)
        naive += alone.low <= 0.5 <= alone.high
        clustered += grouped.low <= 0.5 <= grouped.high
    assert naive / 200 < 0.88  # truth: 1.96 / sqrt(2) standard errors hold 83 %
    assert clustered / 200 > 0.92


def test_share_interval_stays_honest_when_all_prompts_agree() -> None:
    found = share_interval([1.0, 1.0, 1.0], ["a", "b", "c"])
    assert found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 3))  # exact: p^3 = .025
    ties = share_interval([0.5] * 100, list(range(100)))
    assert ties.low < 0.5 < ties.high


def test_share_interval_of_one_prompt_says_nothing() -> None:
    found = share_interval([1.0, 1.0, 0.0], ["a", "a", "a"])
    assert (found.low, found.high) == (0.0, 1.0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="two prompts"):
        mean_interval([1.0, 0.0], ["a", "a"])
    with pytest.raises(DataError, match="10 rounds"):
        mean_interval([1.0, 0.0], ["a", "b"], rounds=10)
    with pytest.raises(DataError, match="3 numerators"):
        bootstrap_ratios([1.0, 0.0, 1.0], [1.0, 1.0], ["a", "b"])
    with pytest.raises(DataError, match="one outside"):
        share_interval([1.5], ["a"])
    with pytest.raises(DataError, match="no values"):
        share_interval([], [])
