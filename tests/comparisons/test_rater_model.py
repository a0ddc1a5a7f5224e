import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from preftune.comparisons.rater_model import RaterModel, fit_raters, skill_intervals
from preftune.comparisons.vote_table import VoteTable, vote_table
from preftune.errors import DataError
from preftune.types import Judgment, JudgmentKind, Rater

PANEL = {  # skill, side, nu
    "keen": (4.0, 0.0, 0.3),
    "usual": (2.0, 0.5, 0.8),
    "vague": (1.0, -0.8, 1.5),
    "left": (1.0, 2.0, 0.2),
    "against": (-2.0, 0.0, 0.5),
}


def judgment(unit: str, rater: str, shown: int, *, number: int = 0) -> Judgment:
    """A verdict: 1 the first shown is better, 0 a tie, -1 the second."""
    choice = {1: 0, 0: None, -1: 1}[shown]
    kind: JudgmentKind = "tie" if choice is None else "binary"
    return Judgment(
        id=f"j-{unit}-{rater}-{number}",
        comparison_id=unit,
        kind=kind,
        choice=choice,
        rater=Rater(id=rater, kind="simulated"),
    )


def simulated(units: int, *, seed: int = 0) -> tuple[list[Judgment], np.ndarray]:
    """Three raters on each pair, half of the showings swapped, by the model's own words."""
    rng = np.random.default_rng(seed)
    gaps = rng.standard_normal(units)
    said = []
    for place, gap in enumerate(gaps.tolist()):
        for rater in rng.choice(list(PANEL), size=3, replace=False).tolist():
            skill, side, nu = PANEL[rater]
            swapped = bool(rng.random() < 0.5)
            lead = skill * (-gap if swapped else gap) + side
            odds = np.array([math.exp(lead / 2), nu, math.exp(-lead / 2)])
            shown = int(rng.choice([1, 0, -1], p=odds / odds.sum()))
            said.append(judgment(f"u{place}" + "~swapped" * swapped, rater, shown))
    return said, gaps


@pytest.fixture(scope="module")
def many() -> tuple[VoteTable, np.ndarray, RaterModel]:
    said, gaps = simulated(3000)
    votes = vote_table(said)
    return votes, gaps, fit_raters(votes)


def test_skills_sides_and_ties_are_recovered(
    many: tuple[VoteTable, np.ndarray, RaterModel],
) -> None:
    _, _, model = many
    for rater, (skill, side, nu) in PANEL.items():
        assert model.skill[rater] == pytest.approx(skill, rel=0.2), rater
        assert model.side[rater] == pytest.approx(side, abs=0.2), rater
        assert model.tie[rater] == pytest.approx(nu, rel=0.25), rater
    assert min(model.skill, key=lambda rater: model.skill[rater]) == "against"


def beliefs(votes: VoteTable, model: RaterModel) -> np.ndarray:
    """P(first is better) of every unit, in the order of the units' numbers."""
    said: dict[str, list[tuple[str, int, bool]]] = {unit: [] for unit in votes.units}
    for unit, rater, shown, swapped in zip(
        votes.unit, votes.rater, votes.shown, votes.swapped, strict=True
    ):
        said[votes.units[unit]].append((votes.raters[rater], int(shown), bool(swapped)))
    found = {unit: model.probability(heard) for unit, heard in said.items()}
    return np.array([found[f"u{place}"] for place in range(len(found))])


def test_probabilities_mean_what_they_say(many: tuple[VoteTable, np.ndarray, RaterModel]) -> None:
    votes, gaps, model = many
    p, truth = beliefs(votes, model), gaps > 0
    for low in np.arange(0, 1, 0.2):
        at = (p >= low) & (p < low + 0.2)
        assert at.sum() > 100
        assert truth[at].mean() == pytest.approx(p[at].mean(), abs=0.06)
    majority = np.zeros(len(gaps))
    for unit, vote in zip(votes.unit, votes.vote, strict=True):
        majority[int(votes.units[unit][1:])] += vote
    counted = np.where(majority == 0, 0.5, (majority > 0) == truth).mean()
    assert ((p > 0.5) == truth).mean() > counted + 0.08


def test_the_fit_maximises_the_likelihood_that_quadrature_gives() -> None:
    # Decided votes only, no ties: -log Π_u ∫ Π sigmoid(± (± skill d + side)) N(d) dd, plus priors,
    # by scipy's own optimiser over a much finer grid.
    said = [j for j in simulated(250, seed=3)[0] if j.kind == "binary"]
    votes = vote_table(said)
    model = fit_raters(votes)
    grid = norm.ppf((np.arange(400) + 0.5) / 400)
    raters, units = len(votes.raters), len(votes.units)

    def loss(at: np.ndarray) -> float:
        skill, side = at[:raters], at[raters:]
        turn = np.where(votes.swapped, -1.0, 1.0)
        lead = (skill[votes.rater] * turn)[:, None] * grid + side[votes.rater][:, None]
        log = -np.logaddexp(0, -votes.shown[:, None] * lead)
        per_unit = np.zeros((units, len(grid)))
        np.add.at(per_unit, votes.unit, log)
        marginal = np.log(np.exp(per_unit).mean(1)).sum()
        return -float(marginal - ((skill - usual) ** 2).sum() / 2 - (side**2).sum() / 2)

    found = np.array([model.skill[r] for r in votes.raters] + [model.side[r] for r in votes.raters])
    usual = (found[:raters].sum() + 1) / (raters + 1)  # the mean the fit settled at
    best = minimize(loss, found, method="L-BFGS-B")
    assert found == pytest.approx(best.x, abs=0.05)


def test_one_vote_of_a_known_rater_matches_the_integral() -> None:
    model = RaterModel(skill={"ann": 1.5}, side={"ann": 0.3}, tie={"ann": 0.0}, rounds=0)
    d = np.linspace(-8, 8, 200_001)
    weight = norm.pdf(d)
    for swapped, turn in ((False, 1), (True, -1)):
        says_first = 1 / (1 + np.exp(-(1.5 * turn * d + 0.3)))
        both = (weight * says_first)[d > 0].sum() / (weight * says_first).sum()
        assert model.probability([("ann", 1, swapped)]) == pytest.approx(both, abs=0.005)


def test_a_vote_for_the_favoured_side_says_less() -> None:
    model = RaterModel(skill={"left": 1.0}, side={"left": 2.0}, tie={"left": 0.5}, rounds=0)
    for_it, against = (
        model.probability([("left", 1, False)]),
        model.probability([("left", -1, False)]),
    )
    assert 0.5 < for_it < 0.7
    assert against < 1 - for_it
    both_orders = [("left", 1, False), ("left", 1, True)]  # a judge who always says left
    assert model.probability(both_orders) == pytest.approx(0.5)


def test_an_adversary_speaks_for_the_other_response() -> None:
    model = RaterModel(skill={"foe": -2.0}, side={"foe": 0.0}, tie={"foe": 0.0}, rounds=0)
    assert model.probability([("foe", 1, False)]) < 0.25
    assert model.accuracy("foe") < 0.25
    friend = RaterModel(skill={"foe": 2.0}, side={"foe": 0.0}, tie={"foe": 0.0}, rounds=0)
    assert model.accuracy("foe") + friend.accuracy("foe") == pytest.approx(1)


def test_no_votes_are_even_odds_and_log_odds_are_finite() -> None:
    model = RaterModel(skill={"ann": 20.0}, side={"ann": 0.0}, tie={"ann": 0.0}, rounds=0)
    assert model.probability([]) == pytest.approx(0.5)
    assert 5 < model.log_odds([("ann", 1, False)] * 50) < 14


def test_a_rater_the_model_does_not_know_is_named() -> None:
    model = RaterModel(skill={}, side={}, tie={}, rounds=0)
    with pytest.raises(DataError, match="rater bob is not in the rater model"):
        model.probability([("bob", 1, False)])


def test_raters_who_never_differ_have_a_finite_skill() -> None:
    said = [judgment(f"u{n}", rater, 1 - 2 * (n % 2)) for n in range(40) for rater in "ab"]
    model = fit_raters(vote_table(said))
    assert model.skill["a"] > 1
    assert model.skill["a"] < 20
    assert model.probability([("a", 1, False), ("b", 1, False)]) > 0.9


def test_gold_finds_the_skill_of_raters_who_never_meet() -> None:
    rng = np.random.default_rng(1)
    truth = {f"u{n}": 1 if rng.random() < 0.5 else -1 for n in range(200)}
    said = [
        judgment(unit, rater, side if right else -side)
        for unit, side in truth.items()
        for rater, right in (("good", rng.random() < 0.9), ("blind", rng.random() < 0.5))
        if (int(unit[1:]) % 2 == 0) == (rater == "good")
    ]
    with pytest.raises(DataError, match="no pair has two votes"):
        fit_raters(vote_table(said))
    model = fit_raters(vote_table(said), gold=truth)
    assert model.accuracy("good") == pytest.approx(0.9, abs=0.07)
    assert abs(model.skill["blind"]) < 0.8


def test_raters_of_whom_most_are_worse_than_chance_by_gold_are_refused() -> None:
    said = [judgment(f"u{n}", rater, -1) for n in range(30) for rater in "abc"]
    with pytest.raises(DataError, match="3 of 3 raters look no better than chance"):
        turned = [judgment(f"u{n}~swapped", rater, 1) for n in range(30, 60) for rater in "abc"]
        fit_raters(vote_table([*said, *turned]), gold={f"u{n}": 1 for n in range(60)})


def test_a_gold_tie_is_refused() -> None:
    with pytest.raises(DataError, match="Leave gold ties out"):
        fit_raters(vote_table([judgment("u", "a", 1)]), gold={"u": 0})


def test_intervals_over_pairs_tell_raters_apart() -> None:
    votes = vote_table(simulated(400, seed=5)[0])
    found = skill_intervals(votes, rounds=30)
    assert found["left"][1].low > 1  # a side bias beyond doubt
    assert found["against"][0].high < 0
    assert found["keen"][0].low > found["vague"][0].high
    held = [found[r][1].low <= side <= found[r][1].high for r, (_, side, _) in PANEL.items()]
    assert sum(held) >= 4
    model = fit_raters(votes)
    assert all(
        skill.low <= model.skill[rater] <= skill.high and side.low <= model.side[rater] <= side.high
        for rater, (skill, side) in found.items()
    )
