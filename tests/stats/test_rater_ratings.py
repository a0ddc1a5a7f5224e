import numpy as np
import pytest
import statsmodels.api as sm

from preftune.errors import DataError
from preftune.stats.rater_ratings import Judged, rater_ratings
from preftune.stats.ratings import win_matrix
from preftune.stats.ties import davidson, davidson_probabilities

STRENGTH = {"a": 1.2, "b": 0.4, "c": -0.3, "d": -1.3}
PANEL = {"keen": (1.6, 0.0), "left": (1.2, 1.0), "right": (0.9, -0.6), "foe": (-0.7, 0.2)}


def games(
    count: int, *, panel: dict[str, tuple[float, float]], nu: float, seed: int = 0
) -> list[Judged]:
    rng = np.random.default_rng(seed)
    found: list[Judged] = []
    for _ in range(count):
        first, second = rng.choice(list(STRENGTH), size=2, replace=False).tolist()
        rater = str(rng.choice(list(panel)))
        skill, side = panel[rater]
        lead = skill * (STRENGTH[first] - STRENGTH[second]) + side
        p = [float(x) for x in davidson_probabilities(lead, nu)]
        found.append((rater, first, second, float(rng.choice([1.0, 0.5, 0.0], p=p))))
    return found


def test_the_golden_chances_of_a_rater_with_skill_and_side() -> None:
    # Gap .7, skill 1.5, side .3: lead 1.35 shown first, -.75 for the weaker shown first
    first, second = (float(davidson_probabilities(lead, 0)[0]) for lead in (1.35, -0.75))
    assert (first, second) == pytest.approx((0.794130, 0.320821), abs=5e-7)


def test_strengths_skills_and_sides_are_recovered() -> None:
    fit = rater_ratings(games(20_000, panel=PANEL, nu=0.6, seed=1))
    mean = np.mean([skill for skill, _ in PANEL.values()])  # skills are scaled to mean 1
    for name, strength in STRENGTH.items():
        assert fit.strength[name] == pytest.approx(strength * mean, abs=0.08)
    for rater, (skill, side) in PANEL.items():
        assert fit.skill[rater] == pytest.approx(skill / mean, abs=0.12)
        assert fit.side[rater] == pytest.approx(side, abs=3 * fit.side_error[rater])
    assert fit.tie == pytest.approx(0.6, abs=0.04)


def test_one_rater_and_no_ties_is_a_logistic_regression_with_intercept() -> None:
    played = games(2000, panel={"one": (1.0, 0.5)}, nu=0.0)
    names = sorted(STRENGTH)
    x = np.zeros((len(played), len(names)))
    for row, (_, a, b, _) in enumerate(played):
        x[row, names.index(a)], x[row, names.index(b)] = 1, -1
    won = [score for *_, score in played]
    theirs = sm.GLM(won, sm.add_constant(x[:, 1:]), family=sm.families.Binomial()).fit(tol=1e-12)
    ours = rater_ratings(played)
    assert ours.side["one"] == pytest.approx(theirs.params[0], abs=1e-5)
    assert ours.side_error["one"] == pytest.approx(theirs.bse[0], rel=1e-3)
    gaps = [ours.strength[name] - ours.strength["a"] for name in names[1:]]
    assert gaps == pytest.approx(theirs.params[1:], abs=1e-5)
    assert (ours.skill, ours.tie) == ({"one": 1.0}, 0.0)


def test_one_rater_who_saw_both_orders_is_davidson() -> None:
    played = games(600, panel={"one": (1.0, 0.0)}, nu=0.8, seed=2)
    both = [*played, *((r, b, a, 1 - score) for r, a, b, score in played)]
    fit = rater_ratings(both)
    names, wins = win_matrix((a, b, s) for _, a, b, s in both if s != 0.5)
    ties = np.zeros_like(wins)
    for _, a, b, score in both:
        if score == 0.5:
            ties[names.index(a), names.index(b)] += 1
    plain = davidson(wins, ties + ties.T, names=names)
    assert fit.side["one"] == pytest.approx(0, abs=1e-6)
    assert [fit.strength[name] for name in names] == pytest.approx(
        plain.ratings.strength.tolist(), abs=1e-5
    )


@pytest.mark.parametrize("played", [[], [("r", "a", "b", 0.7)]])
def test_games_without_a_score_are_refused(played: list[Judged]) -> None:
    with pytest.raises(DataError, match="needs games scored 0"):
        rater_ratings(played)


def test_a_system_that_never_lost_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="best never lost"):
        rater_ratings([("r", "best", "b", 1.0), ("r", "b", "best", 0.0)])
