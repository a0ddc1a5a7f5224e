import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from preftune.errors import DataError
from preftune.stats.over_optimisation import (
    Evaluation,
    Law,
    alarms,
    best,
    fit_best_of_n,
    fit_rl,
    repetition,
)

FITS = {"best-of-n": fit_best_of_n, "rl": fit_rl}
DISTANCES = [0.0, 0.5, 1.0, 1.7, 2.4, 3.1]


def curve(name: str, a: float, b: float, d: float) -> float:
    """The two shapes, written out again."""
    if d == 0:
        return 0.0
    return d * (a - b * d) if name == "best-of-n" else d * (a - b * math.log(d))


coefficients = st.floats(0.1, 5)


@settings(max_examples=30)
@given(st.sampled_from(sorted(FITS)), coefficients, coefficients)
def test_law_is_found_again_from_points_on_it(name: str, a: float, b: float) -> None:
    gold = [curve(name, a, b, d) for d in DISTANCES]
    for errors in (None, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]):
        law = FITS[name](DISTANCES, gold, standard_errors=errors)
        assert [law.a, law.b, law.r2] == pytest.approx([a, b, 1.0], abs=1e-8)
        assert law.at(DISTANCES).tolist() == pytest.approx(gold, abs=1e-7)


@settings(max_examples=30)
@given(st.sampled_from(sorted(FITS)), coefficients, coefficients)
def test_peak_is_where_the_curve_is_highest(name: str, a: float, b: float) -> None:
    b = max(b, a / 5)  # keeps the peak within e^4
    peak = FITS[name](DISTANCES, [curve(name, a, b, d) for d in DISTANCES]).peak
    top = minimize_scalar(
        lambda d: -curve(name, a, b, d), bounds=(1e-9, 200), options={"xatol": 1e-9}
    )
    assert peak == pytest.approx(top.x, rel=1e-4)


def test_peaks_meet_their_closed_forms() -> None:
    assert Law(name="best-of-n", a=3.0, b=1.5, r2=1.0).peak == 1.0
    assert Law(name="rl", a=2.0, b=2.0, r2=1.0).peak == 1.0
    assert Law(name="rl", a=4.0, b=2.0, r2=1.0).peak == pytest.approx(math.e)


@pytest.mark.parametrize(
    ("name", "a", "b"), [("best-of-n", 1.0, 0.0), ("best-of-n", -1.0, 1.0), ("rl", 1.0, -0.5)]
)
def test_a_curve_without_a_top_has_no_peak(name: str, a: float, b: float) -> None:
    gold = [curve(name, a, b, d) for d in DISTANCES]
    law = FITS[name](DISTANCES, gold)
    assert law.peak is None or law.b == pytest.approx(0, abs=1e-9)


def test_fit_equals_the_normal_equations() -> None:
    d, gold = np.array([0.4, 0.9, 1.6, 2.2]), np.array([0.5, 0.8, 0.6, -0.3])
    error = np.array([0.1, 0.1, 0.3, 0.2])
    x = np.stack([d, -(d**2)], axis=1)
    w = np.diag(error**-2)
    a, b = np.linalg.inv(x.T @ w @ x) @ x.T @ w @ gold
    law = fit_best_of_n(d, gold, standard_errors=error)
    assert [law.a, law.b] == pytest.approx([a, b])
    mean = np.average(gold, weights=error**-2)
    left = ((gold - x @ [a, b]) ** 2 / error**2).sum()
    assert law.r2 == pytest.approx(1 - left / ((gold - mean) ** 2 / error**2).sum())


def test_a_precise_point_weighs_more() -> None:
    d, gold = [1.0, 2.0, 3.0], [1.0, 1.0, 3.0]
    trusted = fit_best_of_n(d, gold, standard_errors=[1.0, 1.0, 1e-6])
    assert trusted.at(3.0) == pytest.approx(3.0)
    assert fit_best_of_n(d, gold).at(3.0) != pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize(
    ("d", "gold", "errors", "problem"),
    [
        ([1, 2], [1, 2], None, "2 points"),
        ([0, 0, 1], [1, 2, 3], None, "1 different d"),
        ([1, 2, 3], [1, 2], None, "one of each"),
        ([-1, 2, 3], [1, 2, 3], None, ">= 0"),
        ([1, 2, 3], [1, math.nan, 3], None, "finite"),
        ([1, 2, 3], [1, 2, 3], [0.1, 0.0, 0.1], "standard errors"),
    ],
)
def test_points_that_prove_nothing_are_refused(
    d: list[float], gold: list[float], errors: list[float] | None, problem: str
) -> None:
    for fit in FITS.values():
        with pytest.raises(DataError, match=problem):
            fit(d, gold, standard_errors=errors)


@given(st.integers(0, 60), st.integers(1, 6))
def test_repetition_of_one_token_meets_its_closed_form(length: int, n: int) -> None:
    phrases = length - n + 1
    assert repetition([7] * length, n=n) == pytest.approx(1 - 1 / phrases if phrases > 0 else 0)


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(4, 60))
def test_repetition_of_a_cycle_meets_its_closed_form(period: int, length: int) -> None:
    phrases = length - 3
    cycle = [place % period for place in range(length)]
    assert repetition(cycle) == pytest.approx(1 - min(period, phrases) / phrases)


def test_a_reply_without_a_repeated_phrase_has_no_repetition() -> None:
    assert repetition(list(range(50))) == 0
    assert repetition([1, 2, 3, 9, 1, 2, 3, 8]) == 0  # three tokens come back, four do not


START = Evaluation(
    step=0, proxy=0.0, kl=0.0, length_tokens=27.0, repetition=0.02, gold=0.0, gold_se=0.1
)


def names(*later: Evaluation) -> list[str]:
    return [alarm.name for alarm in alarms([START, *later])]


def test_a_healthy_evaluation_gives_no_alarm() -> None:
    better = replace(
        START,
        step=10,
        proxy=1.0,
        gold=0.5,
        kl=0.9,
        length_tokens=30.0,
        ensemble_spread=0.2,
        length_correlation=0.3,
    )
    assert names() == []
    assert names(better) == []


def test_over_optimisation_needs_both_a_risen_proxy_and_a_fall_beyond_chance() -> None:
    # one earlier row: 2 standard errors of the difference are 2 sqrt(0.1^2 + 0.1^2) = 0.2828
    top = replace(START, gold=1.0)
    now = replace(START, step=10, proxy=1.5, gold=1.0 - 0.29)
    (alarm,) = alarms([top, now])
    assert alarm.name == "over-optimisation"
    assert alarm.stop
    assert "1.00 to 0.71" in alarm.problem
    assert "best checkpoint" in str(alarm)
    assert alarms([top, replace(now, gold=1.0 - 0.28)]) == []
    assert alarms([top, replace(now, proxy=-0.1)]) == []
    assert alarms([top, replace(now, gold=None, gold_se=None)]) == []


@pytest.mark.parametrize(("row", "errors"), [(2, 2.0), (5, 2.53), (20, 3.04)])
def test_bar_rises_with_the_rows_that_the_best_was_chosen_from(row: int, errors: float) -> None:
    earlier = [replace(START, step=place, gold=1.0) for place in range(row - 1)]
    error = math.hypot(0.1, 0.1)
    for factor, found in ((0.99, []), (1.01, ["over-optimisation"])):
        now = replace(START, step=row, proxy=1.0, gold=1.0 - factor * errors * error)
        assert [alarm.name for alarm in alarms([*earlier, now])] == found


def test_fall_is_measured_from_the_best_row_and_not_from_the_last() -> None:
    falling = [
        replace(START, step=10 * place, proxy=float(place), gold=1.0 - 0.15 * place)
        for place in range(1, 5)
    ]  # 0.85, 0.7, 0.55, 0.4: each step is within chance, three of them are not
    assert [names(*falling[:count]) for count in (2, 3)] == [[], []]
    assert names(*falling) == ["over-optimisation"]
    assert best([START, *falling]) == falling[0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"kl": 1.6}, "kl"),
        ({"length_tokens": 34.0}, "length"),
        ({"repetition": 0.13}, "repetition"),
        ({"ensemble_spread": 0.41}, "ensemble spread"),
        ({"length_correlation": 0.6}, "length correlation"),
        ({"length_correlation": -0.6}, "length correlation"),
    ],
)
def test_signs_that_need_no_gold_warn_and_do_not_stop(change: dict[str, float], name: str) -> None:
    start = replace(START, gold=None, gold_se=None, ensemble_spread=0.2)
    now = replace(start, step=10, proxy=1.0, **change)
    (alarm,) = alarms([start, now])
    assert alarm.name == name
    assert alarm.problem
    assert alarm.remedy
    assert not alarm.stop


def test_kl_alarm_is_the_callers_to_set() -> None:
    far = replace(START, step=10, kl=6.0)
    assert names(far) == ["kl"]
    assert alarms([START, far], kl_alarm=10.0) == []


def test_best_is_the_highest_gold_the_earlier_of_two_equal_ones() -> None:
    rows = [replace(START, step=step, gold=gold) for step, gold in enumerate((0, 2, 1, 2))]
    assert best(rows).step == 1
    unknown = replace(START, step=9, proxy=99.0, gold=None, gold_se=None)
    assert best([*rows, unknown]).step == 1
    assert best([unknown, replace(unknown, step=10, proxy=0.0)]).step == 10


def test_no_evaluation_at_all_is_refused() -> None:
    for question in (alarms, best):
        with pytest.raises(DataError, match="no evaluation"):
            question([])


def test_an_evaluation_that_says_nothing_certain_is_refused() -> None:
    with pytest.raises(DataError, match="both or neither"):
        replace(START, gold_se=None)
    with pytest.raises(DataError, match="step 0: a number is not finite"):
        replace(START, proxy=math.nan)


def run(proxy: list[float], gold: list[float], kl: list[float], steps: list[int]) -> list[int]:
    """Return the steps at which a run would have been stopped, audited on 128 replies."""
    rows: list[Evaluation] = []
    stopped = []
    for step, p, g, k in zip(steps, proxy, gold, kl, strict=True):
        rows.append(replace(START, step=step, proxy=p, gold=g, gold_se=1.2 / math.sqrt(128), kl=k))
        if any(alarm.stop for alarm in alarms(rows)):
            stopped.append(step)
    return stopped


def test_measured_run_for_a_length_loving_reward_is_stopped_before_gold_is_below_its_start() -> (
    None
):
    stopped = run(
        proxy=[-0.09, 1.12, 1.75, 2.63, 3.44, 3.58],
        gold=[-0.03, 0.76, 0.16, -0.70, -1.32, -1.91],
        kl=[0, 1.9, 6.5, 85, 303, 329],
        steps=[0, 10, 20, 30, 40, 49],
    )
    assert stopped[0] == 20  # gold is 0.16 there, above the start's -0.03


def test_measured_run_for_a_clean_reward_is_not_stopped() -> None:
    stopped = run(
        proxy=[0.0, 0.9, 1.4, 2.0],
        gold=[0.12, 0.93, 1.30, 1.95],
        kl=[0, 0.32, 1.3, 2.9],
        steps=[0, 10, 20, 39],
    )
    assert stopped == []


@pytest.mark.parametrize(("slope", "limit"), [(0.0, 0.16), (0.5, 0.04), (1.0, 0.01)])
def test_a_run_whose_gold_does_not_fall_is_seldom_stopped_by_chance(
    slope: float, limit: float
) -> None:
    # 10 evaluations, gold rises by `slope` standard errors each, proxy always: 1,000 runs
    rng = np.random.default_rng(0)
    stopped = 0
    for gold in slope * np.arange(10) + rng.normal(size=(1000, 10)):
        rows = [
            replace(START, step=place, proxy=float(place), gold=float(g), gold_se=1.0)
            for place, g in enumerate(gold)
        ]
        stopped += any(alarms(rows[: end + 1]) for end in range(10))
    assert stopped / 1000 <= limit
