"""Wrong labels: repeated votes, and margins of models that never saw them."""

import numpy as np
import pytest

from preftune.datasets.audit_material import Ballot, Material
from preftune.datasets.audit_noise import fit_noise, model_noise_findings, vote_noise
from preftune.errors import DataError


def ballots(votes: list[tuple[str, str, float]]) -> Material:
    """Return votes of (item, rater, value), every item a prompt of its own."""
    cast = [
        Ballot(
            unit=unit,
            prompt=unit,
            dimension="overall",
            rater=rater,
            kind="human",
            value=value,
            swapped=False,
        )
        for unit, rater, value in votes
    ]
    return Material(
        source="votes.jsonl",
        format="preftune",
        rows=[],
        pairs=[],
        comparisons={},
        judgments=[],
        ballots=cast,
        kinds=("human",),
        few_prompts=False,
    )


def margins(n: int, flips: float, seed: int, *, gap: float = 1.5) -> np.ndarray:
    """Return what a model with Bradley–Terry noise of its own would say of labels with flips."""
    rng = np.random.default_rng(seed)
    size = rng.exponential(gap, n)
    agrees = rng.random(n) < 1 / (1 + np.exp(-2 * size))
    return np.where(agrees ^ (rng.random(n) < flips), size, -size)


def test_repeats_that_agree_in_68_percent_are_flipped_in_20() -> None:
    # a .68 → e .2: 68 items on which both raters agree, 32 on which they do not
    votes = [(f"i{n}", "a", 1.0) for n in range(100)]
    votes += [(f"i{n}", "b", 1.0 if n < 68 else -1.0) for n in range(100)]
    (found,) = vote_noise(ballots(votes)).findings
    assert found.value == pytest.approx(0.2)
    assert found.low is not None
    assert found.high is not None
    assert 0.12 < found.low < 0.2 < found.high < 0.33


def test_ties_and_lone_votes_say_nothing_of_flips() -> None:
    votes = [(f"i{n}", "a", 1.0) for n in range(50)] + [(f"i{n}", "b", 0.0) for n in range(50)]
    section = vote_noise(ballots(votes))
    assert not section.findings
    assert "No item was voted on twice" in section.text


def test_a_raters_own_second_votes_are_told_apart() -> None:
    votes = [(f"i{n}", "a", 1.0) for n in range(60)]
    votes += [(f"i{n}", "a", 1.0 if n % 4 else -1.0) for n in range(60)]
    (found,) = vote_noise(ballots(votes)).findings
    assert found.kind == "self_noise"  # agree in 45 of 60: e = (1 - sqrt(.5)) / 2
    assert found.value == pytest.approx((1 - 0.5**0.5) / 2)


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.2, 0.35])
def test_planted_flips_are_estimated_within_their_interval(flips: float) -> None:
    found = [fit_noise(margins(2000, flips, seed), range(2000)).rate for seed in range(20)]
    assert np.mean([f.value for f in found]) == pytest.approx(flips, abs=0.02)
    assert sum(f.low <= flips <= f.high for f in found) >= 17  # of 20 at 95 %


def test_a_model_that_knows_nothing_leaves_the_share_open() -> None:
    rng = np.random.default_rng(0)
    found = fit_noise(rng.normal(size=500), range(500)).rate
    assert found.high > 0.45


def test_the_flipped_are_the_likeliest_and_scale_does_not_matter() -> None:
    m = margins(400, 0.2, 3)
    found, larger = fit_noise(m, range(400)), fit_noise(1000 * m, range(400))
    assert larger.rate == found.rate
    assert larger.wrong == pytest.approx(found.wrong)
    assert np.argmax(found.wrong) == np.argmin(m)
    assert (np.diff(found.wrong[np.argsort(m)]) <= 1e-12).all()


def test_copies_of_pairs_in_a_prompt_do_not_narrow_the_interval() -> None:
    m = margins(300, 0.2, 1)
    once, often = fit_noise(m, range(300)).rate, fit_noise(np.tile(m, 4), [*range(300)] * 4).rate
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.2)


def test_much_noise_stops_and_little_is_in_order() -> None:
    few, many = (fit_noise(margins(2000, e, 0), range(2000)) for e in (0.02, 0.4))
    assert model_noise_findings(few)[0].verdict == "ok"
    assert model_noise_findings(many)[0].verdict == "stop"


@pytest.mark.parametrize("bad", [np.ones(5), np.full(30, np.nan), np.zeros(30)])
def test_too_few_or_senseless_margins_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="fit_noise"):
        fit_noise(bad, range(len(bad)))
