import time
from collections.abc import Callable

import numpy as np
import pytest

from preftune.comparisons.rater_report import RaterRow, rater_report, report_of
from preftune.comparisons.vote_table import VoteTable
from preftune.types import Judgment, Rater

ACCURACIES = {"a": 0.9, "b": 0.85, "c": 0.8, "d": 0.8}
Habit = Callable[[np.random.Generator, int], int]
"""What a rater says, 1 or -1 as shown, from the truth as shown."""


def judgment(
    unit: str, rater: str, shown: int, *, number: int = 0, seconds: float | None = None
) -> Judgment:
    choice = {1: 0, 0: None, -1: 1}[shown]
    return Judgment(
        id=f"j-{unit}-{rater}-{number}",
        comparison_id=unit,
        kind="tie" if choice is None else "binary",
        choice=choice,
        rater=Rater(id=rater, kind="human"),
        seconds=seconds,
    )


def right_in(accuracy: float) -> Habit:
    return lambda rng, truth: truth if rng.random() < accuracy else -truth


def labelled(odd: Habit, *, items: int = 50, seed: int = 0) -> list[Judgment]:
    """The odd one and two of four careful raters on each item, half of the showings swapped."""
    rng = np.random.default_rng(seed)
    said = []
    for item in range(items):
        truth = int(rng.choice([1, -1]))
        pair = rng.choice(list(ACCURACIES), size=2, replace=False).tolist()
        for rater, habit in [("odd", odd), *((r, right_in(ACCURACIES[r])) for r in pair)]:
            swapped = bool(rng.random() < 0.5)
            shown = habit(rng, -truth if swapped else truth)
            said.append(judgment(f"u{item}" + "~swapped" * swapped, rater, shown))
    return said


def row_of(rows: list[RaterRow], rater: str) -> RaterRow:
    return next(row for row in rows if row.rater == rater)


def flag_kinds(said: list[Judgment], rater: str = "odd") -> set[str]:
    return {flag.split(":")[0] for flag in row_of(rater_report(said), rater).flags}


def test_shares_match_a_count_by_hand() -> None:
    said = [
        judgment("u1", "ann", 1), judgment("u1", "bob", 1), judgment("u1~swapped", "cid", 1),
        judgment("u2", "ann", 0), judgment("u2", "bob", -1), judgment("u2", "cid", 0),
        judgment("u3~swapped", "ann", -1), judgment("u3", "bob", 1),
        judgment("u1~swapped", "ann", -1, number=2),
    ]  # fmt: skip
    rows = rater_report(said, gold={"u1": 1, "u2": -1})
    assert [row.rater for row in rows] == ["ann", "bob", "cid"]
    ann = rows[0]
    assert (ann.votes, ann.tie_frac) == (4, 0.25)
    assert ann.gold is not None
    assert (ann.gold.value, ann.gold.n) == (0.5, 2)  # u1 right, u2 not
    assert ann.repeats is not None
    assert (ann.repeats.value, ann.repeats.n) == (1.0, 1)  # u1 in both orders, the same answer
    assert ann.first is not None
    assert ann.first.value == pytest.approx(1 / 3)
    assert ann.first.n == 3
    # u1: bob agrees, cid does not; u2: cid agrees, bob does not; u3: bob agrees (swapped, second)
    assert ann.others is not None
    assert ann.others.value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert ann.others.n == 3
    # ann says first 2/3, tie 1/3; the others said, on her units: first .5 + 0 + 1, tie 0 + .5 + 0
    assert ann.chance == pytest.approx(2 / 3 * 1.5 / 3 + 1 / 3 * 0.5 / 3)
    cid = rows[2]
    assert (cid.gold is not None and cid.gold.value, cid.repeats) == (0.0, None)


@pytest.mark.parametrize(
    ("habit", "flag"),
    [
        (lambda rng, truth: int(rng.choice([1, -1])), "random"),
        (right_in(0.1), "adversary"),
        (lambda rng, truth: 1, "one side"),
    ],
)
def test_odd_raters_are_flagged_within_50_items(habit: Habit, flag: str) -> None:
    found = [flag in flag_kinds(labelled(habit, seed=seed)) for seed in range(40)]
    assert sum(found) >= 37


def test_careful_raters_are_left_in_peace() -> None:
    for accuracy, most in ((0.9, 2), (0.8, 8)):  # of 40; the sides alone give 1
        said = [labelled(right_in(accuracy), seed=seed) for seed in range(40)]
        assert sum(bool(flag_kinds(judgments)) for judgments in said) <= most


def test_gold_clears_a_rater_whom_the_others_contradict() -> None:
    said = [judgment(f"u{n}", "good", 1 - 2 * (n % 2)) for n in range(40)]
    said += [judgment(f"u{n}", r, 2 * (n % 2) - 1) for n in range(40) for r in ("foe", "foe-2")]
    assert flag_kinds(said, "good") == {"adversary"}
    truth = {f"u{n}": 1 - 2 * (n % 2) for n in range(40)}
    rows = rater_report(said, gold=truth)
    assert row_of(rows, "good").flags == ()
    assert row_of(rows, "foe").flags == ("adversary: against gold",)


def test_agreement_with_the_others_is_no_excuse_for_missing_gold() -> None:
    rng = np.random.default_rng(0)
    truth = {f"u{n}": int(rng.choice([1, -1])) for n in range(60)}
    said = [judgment(unit, r, int(rng.choice([1, -1]))) for unit in truth for r in ("x", "y")]
    said += [judgment(f"v{n}", r, 1 - 2 * (n % 2)) for n in range(60) for r in ("x", "y")]
    flags = row_of(rater_report(said, gold=truth), "x").flags
    assert [flag.split(":")[0] for flag in flags] == ["gold"]


def test_a_guesser_who_often_ties_is_measured_against_what_that_gives() -> None:
    rng = np.random.default_rng(0)
    truth = {f"u{n}": int(rng.choice([1, -1])) for n in range(300)}
    says = rng.choice([1, 0, -1], 300, p=[0.25, 0.5, 0.25])  # right in a quarter, by chance
    said = [judgment(u, "guess", int(s)) for u, s in zip(truth, says, strict=True)]
    rows = rater_report(said, gold=truth)
    assert rows[0].flags == ("random: cannot be told from chance",)


def test_gold_counts_the_first_answer_only() -> None:
    said = [judgment("u", "ann", -1), judgment("u", "ann", 1, number=1)]  # told, and mended
    gold = rater_report(said, gold={"u": 1})[0].gold
    assert gold is not None
    assert (gold.value, gold.n) == (0.0, 1)


def test_a_rater_who_turns_answers_round_contradicts_itself() -> None:
    rng = np.random.default_rng(0)
    said = [
        judgment(f"u{n}", "odd", int(rng.choice([1, -1])), number=again)
        for again in range(2)
        for n in range(20)
    ]
    assert flag_kinds(said) == {"contradicts itself"}
    same = [
        judgment(f"u{n}", "odd", 1 - 2 * (n % 2), number=a) for a in range(2) for n in range(20)
    ]
    assert flag_kinds(same) == set()


def test_pace_is_compared_with_the_others() -> None:
    took = {"a": 30.0, "b": 25.0, "c": 35.0, "odd": 3.0}
    said = [
        judgment(f"u{n}", rater, 1 - 2 * (n % 2), seconds=seconds + n % 3)
        for n in range(12)
        for rater, seconds in took.items()
    ]
    rows = rater_report(said)
    assert row_of(rows, "odd").median_s == 4
    assert row_of(rows, "odd").flags == ("too fast: 4.0 s, the usual is 28.5 s",)
    assert all(row.flags == () for row in rows if row.rater != "odd")


def test_a_rater_without_a_vote_has_an_empty_row() -> None:
    unparsed = Judgment(id="j", comparison_id="u", kind="unparsed", rater=Rater(id="mute"))
    row = rater_report([unparsed])[0]
    assert (row.votes, row.gold, row.first, row.others, row.chance, row.flags) == (
        0, None, None, None, None, (),
    )  # fmt: skip


def test_a_million_votes_take_seconds() -> None:
    rng = np.random.default_rng(0)
    votes, units = 1_000_000, 333_000
    unit = rng.integers(0, units, votes)
    table = VoteTable(
        units=tuple(map(str, range(units))),
        raters=tuple(f"r{k}" for k in range(200)),
        kinds=("human",) * 200,
        clusters="comparison",
        cluster=np.arange(units),
        unit=unit,
        rater=rng.integers(0, 200, votes),
        shown=rng.choice([1, 0, -1], votes).astype(np.int8),
        swapped=rng.random(votes) < 0.5,
        seconds=rng.lognormal(3, 0.4, votes),
    )
    start = time.process_time()
    rows = report_of(table, gold={str(n): 1 for n in range(2000)})
    assert time.process_time() - start < 60  # 2 s alone; one vote at a time would take minutes
    assert sum(row.votes for row in rows) == votes
    assert all(row.others is not None and row.others.n > 2000 for row in rows)
