import pytest

from preftune.training.facts import lean_of
from preftune.training.held_out import HeldOut, held_out_report
from preftune.types import PreferencePair, assistant, make_prompt, user


def pair(chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        id=f"{chosen}-{rejected}",
        prompt=make_prompt(user("?")),
        chosen=(assistant(chosen),),
        rejected=(assistant(rejected),),
    )


LONGER = [pair("long answer", "no"), pair("longer still", "yes"), pair("a", "bbb")]


def report_on(
    trained_on: list[PreferencePair], pairs: list[PreferencePair], margins: list[float]
) -> HeldOut:
    leans = [lean_of(pair) for pair in pairs]
    return held_out_report(trained_on=map(lean_of, trained_on), leans=leans, margins=margins)


def test_accuracy_and_interval_are_those_of_wilson() -> None:
    pairs = [pair("x" * n, "y") for n in range(2, 102)]
    report = report_on(LONGER, pairs, [1.0] * 60 + [-1.0] * 40)
    assert (report.model.share, report.model.n) == (0.6, 100)
    assert (report.model.low, report.model.high) == pytest.approx((0.502003, 0.690599), abs=1e-6)


def test_the_length_rule_is_chosen_on_the_training_pairs() -> None:
    shorter_wins = [pair("a", "long one"), pair("b", "another")]
    held_out = [pair("long answer", "no"), pair("equal", "lucky"), pair("c", "looong")]
    by_longer = report_on(LONGER, held_out, [1, 1, 1])
    by_shorter = report_on(shorter_wins, held_out, [1, 1, 1])
    assert (by_longer.length_rule, by_shorter.length_rule) == ("longer wins", "shorter wins")
    assert by_longer.length_only.right == 1.5  # right, equal counts half, wrong
    assert by_shorter.length_only.right == 1.5


def test_equal_scores_count_half() -> None:
    report = report_on(LONGER, LONGER, [0.0, 0.0, 0.0])
    assert report.model.right == 1.5
