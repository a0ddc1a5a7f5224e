import pytest

from preftune.errors import SettingsError
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.gate_rules import (
    GateRule,
    decide,
    lower_bound_above,
    no_new_failures,
    non_inferior,
    upper_bound_below,
    value_above,
    value_below,
)
from preftune.evaluation.measures import Measure
from preftune.evaluation.regression import PairedCheck, PairedSlice
from preftune.stats.paired import paired_difference


def measure(value: float, low: float, high: float, n: int = 100) -> Measure:
    return Measure(name="m", value=value, low=low, high=high, n=n)


def part(
    lost: int, gained: int, n: int, *, tag: str = "", at_risk: int | None = None
) -> PairedSlice:
    return PairedSlice(
        tag=tag,
        difference=paired_difference(gained=gained, lost=lost, n=n),
        baseline_frac=1.0,
        candidate_frac=1.0,
        at_risk=n if at_risk is None else at_risk,
        p_value=1.0,
        p_holm=1.0,
    )


def with_slices(*parts: PairedSlice) -> Evaluation:
    check = PairedCheck(name="facts", overall=parts[0], slices=parts)
    return Evaluation(candidate="tuned", baseline="base", checks=(check,))


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.56, 0.66, "pass"),
        (0.55, 0.66, "can't tell"),
        (0.4, 0.56, "can't tell"),
        (0.4, 0.55, "fail"),
    ],
)
def test_lower_bound_above_has_three_outcomes(low: float, high: float, outcome: str) -> None:
    assert lower_bound_above(measure((low + high) / 2, low, high), 0.55)[0] == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(2.0, 2.9, "pass"), (2.0, 3.0, "can't tell"), (2.9, 4.0, "can't tell"), (3.0, 4.0, "fail")],
)
def test_upper_bound_below_has_three_outcomes(low: float, high: float, outcome: str) -> None:
    assert upper_bound_below(measure((low + high) / 2, low, high), 3.0)[0] == outcome


def test_cant_tell_says_how_many_prompts_would_tell() -> None:
    # the error bar 1/4 must shrink to 1/8: four times the prompts
    _, said = lower_bound_above(measure(0.625, 0.375, 0.875, n=100), 0.5)
    assert "about 400 prompts" in said
    _, beyond = lower_bound_above(measure(0.54, 0.44, 0.64), 0.55)
    assert "The estimate itself misses the bar" in beyond


def test_values_are_compared_strictly() -> None:
    exact = Measure(name="m", value=1.0, n=1)
    assert value_above(exact, 1.0)[0] == value_below(exact, 1.0)[0] == "fail"
    assert value_above(exact, 0.9)[0] == value_below(exact, 1.1)[0] == "pass"


def test_a_bound_without_interval_cannot_tell() -> None:
    alone = Measure(name="m", value=0.9, n=1)
    assert lower_bound_above(alone, 0.5)[0] == "can't tell"
    assert upper_bound_below(alone, 1.0)[0] == "can't tell"


@pytest.mark.parametrize(
    ("lost", "gained", "n", "outcome"),
    [
        (0, 0, 480, "pass"),  # exact bound .6 points
        (3, 2, 480, "pass"),
        (6, 3, 300, "can't tell"),  # lower bound -2.64: 300 items can't certify
        (11, 3, 300, "can't tell"),  # estimate -2.67, upper bound -.63
        (41, 1, 300, "fail"),
        (0, 0, 60, "can't tell"),  # 60 items leave losses of 4.9 % open
    ],
)
def test_non_inferiority_at_two_points(lost: int, gained: int, n: int, outcome: str) -> None:
    found = non_inferior(paired_difference(gained=gained, lost=lost, n=n), 0.02)
    assert found[0] == outcome


def test_non_inferiority_tells_too_few_from_worse() -> None:
    few = non_inferior(paired_difference(gained=0, lost=0, n=60), 0.02)[1]
    assert "about 149 items" in few  # .98 ** 149 < .05
    worse = non_inferior(paired_difference(gained=3, lost=11, n=300), 0.02)[1]
    assert "The estimate itself misses the bar" in worse
    lost = non_inferior(paired_difference(gained=1, lost=41, n=300), 0.02)[1]
    assert "It got worse" in lost


def test_no_new_failures_needs_enough_to_lose() -> None:
    assert no_new_failures(part(0, 5, 60), 60)[0] == "pass"
    assert no_new_failures(part(1, 5, 60), 60)[0] == "fail"
    outcome, said = no_new_failures(part(0, 0, 60, at_risk=40), 60)
    assert outcome == "can't tell"
    assert "Add 20 prompts" in said


def test_each_slice_must_pass() -> None:
    rule = GateRule(name="r", kind="no_new_failures", check="facts", min_n=60, slice="each")
    good, small = part(0, 0, 60, tag="danger"), part(0, 0, 10, tag="privacy")
    bad = part(1, 0, 60, tag="unknown")
    assert decide(rule, with_slices(good))[0] == "pass"
    assert decide(rule, with_slices(good, small))[0] == "can't tell"
    outcome, said = decide(rule, with_slices(good, small, bad))
    assert outcome == "fail"
    assert said.startswith("unknown: 1 new failures")


def test_a_fail_of_one_slice_among_many_survives_holms_correction_or_is_none() -> None:
    rule = GateRule(name="r", kind="non_inferior", check="facts", margin=0.02, slice="each")
    # -5.0 points with SE 1.54: z = -1.95, one-sided p .026 alone, .26 among ten
    narrow, safe = part(10, 0, 200, tag="tail"), part(5, 5, 4000, tag="fact")
    alone = decide(rule, with_slices(narrow))
    among = decide(rule, with_slices(narrow, *[safe] * 9))
    assert alone[0] == "fail"
    assert among[0] == "can't tell"
    assert "Not after Holm's correction over 10 slices" in among[1]
    clear = part(60, 0, 200, tag="tail")
    assert decide(rule, with_slices(clear, *[safe] * 9))[0] == "fail"


def test_what_was_not_measured_cannot_be_told() -> None:
    evaluation = with_slices(part(0, 0, 500, tag="danger"))
    cases = [
        GateRule(name="r", kind="value_below", measure="length_ratio", threshold=1.25),
        GateRule(name="r", kind="non_inferior", check="fact", margin=0.02),
        GateRule(name="r", kind="non_inferior", check="facts", margin=0.02, slice="dangr"),
    ]
    found = [decide(rule, evaluation) for rule in cases]
    assert {outcome for outcome, _ in found} == {"can't tell"}
    assert "Did you mean 'facts'?" in found[1][1]
    assert "Did you mean 'danger'?" in found[2][1]


def test_a_rule_takes_just_the_fields_of_its_kind() -> None:
    with pytest.raises(SettingsError, match="takes check and margin, got check"):
        GateRule(name="r", kind="non_inferior", check="facts")
    with pytest.raises(SettingsError, match="got measure and threshold and margin"):
        GateRule(name="r", kind="value_below", measure="m", threshold=1, margin=0.1)
    with pytest.raises(SettingsError, match="margin between 0 and 1"):
        GateRule(name="r", kind="non_inferior", check="facts", margin=2)
    with pytest.raises(SettingsError, match="slice each goes with a check"):
        GateRule(name="r", kind="value_below", measure="m", threshold=1, slice="each")
