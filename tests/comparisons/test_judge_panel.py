import itertools
from typing import Any

import pytest
from tests.comparisons.judge_world import summed

from preftune.comparisons.judging.panel import (
    agreement_matrix,
    flips,
    judge_pairs,
    outcomes,
)
from preftune.errors import DataError
from preftune.types import Judgment, Rater

COUNT = itertools.count()
PAIR = summed(2)  # the right answer stands first
BOTH = [PAIR, PAIR.swap()]


def said(judge: str, on: str, verdict: int | str, scores: tuple[float, ...] = ()) -> Judgment:
    fields: dict[str, Any] = (
        {"kind": "binary", "choice": verdict} if isinstance(verdict, int) else {"kind": verdict}
    )
    return Judgment(
        id=f"j{next(COUNT)}",
        comparison_id=on,
        rater=Rater(id=judge, kind="judge"),
        dimension="sums",
        scores=scores,
        **fields,
    )


def both(judge: str, first: int | str, swapped: int | str, **odds: Any) -> list[Judgment]:
    return [
        said(judge, "sum-2", first, odds.get("one", ())),
        said(judge, "sum-2~swapped", swapped, odds.get("two", ())),
    ]


@pytest.mark.parametrize(
    ("first", "swapped", "outcome"),
    [
        (0, 1, "first"),
        (1, 0, "second"),
        (0, 0, "flip"),
        (1, 1, "flip"),
        ("tie", "tie", "tie"),
        (0, "tie", "tie"),
        (0, "unparsed", "unparsed"),
    ],
)
def test_outcome_of_two_orders(first: int | str, swapped: int | str, outcome: str) -> None:
    assert outcomes(both("a", first, swapped)) == {"a": {"sum-2": outcome}}


def test_outcome_of_one_order_and_of_grades() -> None:
    assert outcomes([said("a", "sum-2~swapped", 0)]) == {"a": {"sum-2": "second"}}
    graded = Judgment(
        id="g", comparison_id="sum-2", kind="scale", grade=2, rater=Rater(id="a", kind="judge")
    )
    assert outcomes([graded]) == {"a": {"sum-2": "first"}}


def test_a_ranking_is_no_verdict_on_two() -> None:
    ranked = Judgment(
        id="r", comparison_id="sum-2", kind="ranking", ranking=((0,), (1,)), rater=Rater(id="a")
    )
    with pytest.raises(DataError, match="a ranking"):
        outcomes([ranked])


def test_agreement_and_kappa_of_two_judges_by_hand() -> None:
    found = {
        "a": {"1": "first", "2": "first", "3": "second", "4": "flip", "5": "unparsed"},
        "b": {"1": "first", "2": "second", "3": "second", "4": "tie", "5": "first"},
    }
    (only,) = agreement_matrix(found)  # type: ignore[arg-type]  # a literal of the test
    # three of four agree; chance: first 2/4·1/4 + second 1/4·2/4 + undecided 1/4·1/4 = 5/16
    assert (only.judges, only.n, only.share) == (("a", "b"), 4, 0.75)
    assert only.kappa == pytest.approx((12 / 16 - 5 / 16) / (1 - 5 / 16))


def test_judges_without_a_difference_have_no_kappa() -> None:
    (only,) = agreement_matrix({"a": {"1": "first"}, "b": {"1": "first"}})
    assert (only.share, only.kappa) == (1.0, None)


def test_flips_are_listed_once_in_the_first_order() -> None:
    found = outcomes([*both("a", 0, 0), *both("b", 0, 1)])
    assert flips([PAIR, PAIR.swap(), summed(4)], found) == [PAIR]


def test_a_flip_makes_no_pair_and_a_steady_verdict_does() -> None:
    assert len(judge_pairs(BOTH, both("a", 0, 0), dimension="sums").ties) == 1
    (pair,) = judge_pairs(BOTH, both("a", 0, 1), dimension="sums").pairs
    assert pair.chosen == PAIR.responses[0].messages
    assert (pair.weight, pair.probability) == (1.0, 1.0)


def test_the_share_of_steady_judges_is_the_weight() -> None:
    panel = [*both("a", 0, 1), *both("b", 0, 1), *both("c", 1, 1)]
    (pair,) = judge_pairs(BOTH, panel, dimension="sums").pairs
    assert pair.weight == pytest.approx(2 / 3)
    assert pair.probability == pytest.approx((2 + 0.5 + 0.5) / 4)  # two wins and a tie, smoothed


def test_the_mean_over_both_orders_is_the_probability() -> None:
    said = both("a", 0, 1, one=(0.9, 0.1), two=(0.3, 0.7))
    (pair,) = judge_pairs(BOTH, said, dimension="sums").pairs
    assert pair.probability == pytest.approx(0.8)
    assert (pair.chosen_score, pair.rejected_score) == pytest.approx((0.8, 0.2))
    other = both("a", 1, 0, one=(0.1, 0.9), two=(0.6, 0.4))
    (pair,) = judge_pairs(BOTH, other, dimension="sums").pairs
    assert pair.chosen == PAIR.responses[1].messages
    assert pair.probability == pytest.approx(0.75)


def test_marks_that_are_no_probabilities_leave_the_votes() -> None:
    said = both("a", 0, 1, one=(4.5, 1.0), two=(1.0, 4.5))
    (pair,) = judge_pairs(BOTH, said, dimension="sums").pairs
    assert pair.probability == 1.0


def test_a_judge_with_an_order_unparsed_has_no_voice() -> None:
    found = judge_pairs(BOTH, both("a", 0, "unparsed"), dimension="sums")
    assert (found.pairs, len(found.unjudged), found.unparsed) == ([], 1, 1)
    mixed = judge_pairs(BOTH, [*both("a", 0, "unparsed"), *both("b", 1, 0)], dimension="sums")
    assert mixed.pairs[0].chosen == PAIR.responses[1].messages
    assert mixed.pairs[0].weight == 1.0
