import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import SettingsError
from preftune.inference.stopping import (
    Stopping,
    check_prompts,
    enough,
    expected_gain,
    pooled_sd,
    share_of,
)

scores = st.lists(st.floats(-5, 5), min_size=1, max_size=8)


def test_gain_of_two_equal_scores() -> None:
    # s = sqrt(1.5), z = 0: s / sqrt(2 pi)
    assert expected_gain([0.0, 0.0], 1.0) == pytest.approx(math.sqrt(1.5) / math.sqrt(2 * math.pi))


@given(scores, st.floats(0.1, 3))
def test_gain_is_the_mean_of_what_a_normal_draw_adds(own: list[float], spread: float) -> None:
    s = spread * math.sqrt(1 + 1 / len(own))
    x = np.linspace(-9, 9, 20_001)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    adds = np.maximum(np.mean(own) + s * x - max(own), 0)
    mean = (density * adds).sum() * (x[1] - x[0])
    assert expected_gain(own, spread) == pytest.approx(mean, abs=1e-5)


@settings(max_examples=50)
@given(scores, st.floats(0, 3), st.floats(-3, 3))
def test_gain_falls_with_the_lead_and_does_not_know_where_zero_is(
    own: list[float], spread: float, shift: float
) -> None:
    gain = expected_gain(own, spread)
    assert gain >= 0
    assert expected_gain([x + shift for x in own], spread) == pytest.approx(gain, abs=1e-9)
    assert expected_gain([0.0, 0.0, 1.0], 1.0) > expected_gain([0.0, 0.0, 2.0], 1.0)


def test_pooled_spread_is_that_within_groups() -> None:
    assert pooled_sd([[0.0, 2.0], [5.0, 5.0, 8.0]]) == pytest.approx(math.sqrt(8 / 3))
    assert pooled_sd([[0.0, 2.0], [100.0, 102.0], []]) == pytest.approx(math.sqrt(2))
    assert pooled_sd([[1.0], [2.0], []]) == math.inf


def test_scores_of_any_size_have_a_spread_and_a_gain() -> None:
    assert pooled_sd([[0.0, 2e200], [5e200, 5e200, 8e200]]) == pytest.approx(
        math.sqrt(8 / 3) * 1e200
    )
    assert expected_gain([1e308, 1e308], 1e307) == pytest.approx(
        1e307 * expected_gain([0.0, 0.0], 1.0)
    )


def test_enough_needs_a_score_and_a_spread() -> None:
    assert not enough([], 1.0, 1e9)
    assert not enough([1.0], math.inf, 1e9)
    assert enough([1.0, 1.0], 0.0, 1e-9)  # constant scores: nothing more to gain


def test_checked_prompts_are_a_share_rounded_up_and_stay_the_same() -> None:
    ids = [f"p{i}" for i in range(95)]
    found = check_prompts(ids, 0.1, 3)
    assert len(found) == 10
    assert found == check_prompts(ids[::-1], 0.1, 3)
    assert found != check_prompts(ids, 0.1, 4)
    assert check_prompts(ids, 0.0, 3) == frozenset()
    assert check_prompts(ids, 1.0, 3) == set(ids)


@pytest.mark.parametrize(
    "given_",
    [
        {"cost": 0.0},
        {"cost": math.nan},
        {"cost": 1.0, "least": 1},
        {"cost": 1.0, "check_frac": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(given_: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="stopping:"):
        Stopping(**given_)  # type: ignore[arg-type]  # one number for two types


@pytest.mark.parametrize(("frac", "count", "share"), [(0.07, 100, 7), (0.55, 100, 55), (0.1, 3, 1)])
def test_a_share_is_rounded_up_only_where_it_is_broken(frac: float, count: int, share: int) -> None:
    assert share_of(count, frac) == share
