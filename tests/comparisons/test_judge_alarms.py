from dataclasses import replace

import pytest
from tests.comparisons.judge_world import response, summed

from preftune.comparisons.judging.alarms import (
    Sign,
    bias_signs,
    constant_answers,
    flip_signs,
    self_preference,
)
from preftune.types import Comparison, Judgment, Rater

SUMS = [summed(n) for n in range(60)]


def verdicts(places: list[int], comparisons: list[Comparison]) -> list[Judgment]:
    return [
        Judgment(
            id=f"{c.id}/j",
            comparison_id=c.id,
            kind="binary",
            choice=place,
            rater=Rater(id="judge", kind="judge"),
        )
        for c, place in zip(comparisons, places, strict=True)
    ]


def signs_of(kind: str, judgments: list[Judgment], shown: list[Comparison]) -> list[Sign]:
    return [s for s in bias_signs(judgments, shown, dimension="overall") if s.kind == kind]


def only(signs: list[Sign]) -> Sign:
    (sign,) = signs
    return sign


@pytest.mark.parametrize(("first", "alarm"), [(60, True), (45, True), (30, False), (15, True)])
def test_position_bias_is_an_alarm_when_its_interval_leaves_half_out(
    first: int, alarm: bool
) -> None:
    sign = only(signs_of("position", verdicts([0] * first + [1] * (60 - first), SUMS), SUMS))
    assert (sign.kind, sign.who, sign.share, sign.n) == ("position", "judge", first / 60, 60)
    assert sign.alarm is alarm
    assert sign.low <= sign.share <= sign.high


def test_a_steady_judge_in_both_orders_has_no_place() -> None:
    shown = [*SUMS, *(c.swap() for c in SUMS)]
    sign = only(signs_of("position", verdicts([0] * 60 + [1] * 60, shown), shown))
    assert (sign.share, sign.alarm) == (0.5, False)


def test_length_bias_has_a_direction() -> None:
    longer = [replace(c, responses=(c.responses[0], response(c.prompt, "x" * 99))) for c in SUMS]
    up = only(signs_of("length", verdicts([1] * 50 + [0] * 10, longer), longer))
    down = only(signs_of("length", verdicts([0] * 50 + [1] * 10, longer), longer))
    assert (up.share, up.alarm, down.share, down.alarm) == (50 / 60, True, 10 / 60, True)
    assert "leans to the longer" in up.what
    assert "leans to the shorter" in down.what


def test_answers_of_equal_length_say_nothing_about_length() -> None:
    equal = [summed(n) for n in range(10, 60)]  # two digits on either side
    assert signs_of("length", verdicts([0] * 50, equal), equal) == []


def test_flips_are_an_alarm_by_the_lower_end() -> None:
    names = [c.id for c in SUMS]
    many = {"judge": dict.fromkeys(names[:40], "flip") | dict.fromkeys(names[40:], "first")}
    few = {"judge": dict.fromkeys(names[:10], "flip") | dict.fromkeys(names[10:], "first")}
    assert only(flip_signs(many, SUMS, most=0.25)).alarm  # type: ignore[arg-type]  # literals
    sign = only(flip_signs(few, SUMS, most=0.25))  # type: ignore[arg-type]  # literals
    assert sign.share == pytest.approx(1 / 6)
    assert not sign.alarm


def test_any_comparison_of_its_own_is_an_alarm() -> None:
    assert self_preference("judge", 0, 60, kept=False) == []
    sign = only(self_preference("judge", 3, 60, kept=False))
    assert (sign.share, sign.alarm) == (0.05, True)
    assert "left out" in sign.what
    assert "all the same" in only(self_preference("judge", 3, 60, kept=True)).what


def test_one_answer_to_many_prompts_is_an_alarm() -> None:
    null = [
        replace(c, responses=(c.responses[0], response(c.prompt, "Best  answer.\n", "null")))
        for c in SUMS
    ]
    sign = only(constant_answers(null))
    assert (sign.kind, sign.who, sign.share, sign.n) == ("constant answer", "null", 1.0, 60)
    assert "Best answer." in sign.what
    assert constant_answers(SUMS) == []


def test_a_repeated_short_answer_is_none() -> None:
    some = [
        replace(c, responses=(c.responses[0], response(c.prompt, "Yes." if n < 5 else f"No, {n}.")))
        for n, c in enumerate(SUMS)
    ]
    assert constant_answers(some) == []  # 5 of 60 is less than a tenth
