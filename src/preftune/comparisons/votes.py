"""What the raters said about each comparison, in one order: one unit, one voice per rater."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from preftune.comparisons.scales import signed_strength
from preftune.errors import DataError
from preftune.types import Comparison, Judgment

SWAPPED = "~swapped"
"""How the id of a comparison ends that was shown in the reverse of its first order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """One rater on two responses: -3..3, positive when the first is better, 0 for a tie."""

    judgment: Judgment  # the rater's last one
    signed: float
    graded: bool  # whether the size says how clear it was; a binary vote is ±1 and says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One comparison and all verdicts on it, positions counted in its first order."""

    comparison: Comparison
    voices: tuple[tuple[Judgment, ...], ...]  # per rater, the last verdict in each order
    repeats: int  # verdicts that a later one of the same rater in the same order replaced


def units(comparisons: Iterable[Comparison], judgments: Iterable[Judgment]) -> list[Unit]:
    """Return each comparison with the verdicts on it; a comparison and its swap are one unit.

    Raises:
        DataError: a verdict on an unknown comparison, one that does not fit the responses shown,
            or two orders of one comparison with different responses.
    """
    first_order: dict[str, Comparison] = {}
    shown_ids = set()
    for shown in comparisons:
        base = shown.swap() if shown.id.endswith(SWAPPED) else shown
        known = first_order.setdefault(base.id, base)
        if [r.messages for r in known.responses] != [r.messages for r in base.responses]:
            raise DataError(f"comparison {base.id}: two orders, different responses. Give new ids.")
        shown_ids.add(shown.id)
    said: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        if judgment.comparison_id not in shown_ids:
            raise DataError(
                f"judgment {judgment.id}: comparison {judgment.comparison_id} is not among those "
                "given. Give the comparisons that were judged."
            )
        unit = judgment.comparison_id.removesuffix(SWAPPED)
        said[unit].append(_turned(judgment, len(first_order[unit].responses)))
    return [_unit(comparison, said[id_]) for id_, comparison in first_order.items()]


def votes_in_order(unit: Unit, i: int, j: int) -> list[tuple[str, int, bool]]:
    """Return (rater, vote, swapped) of every verdict on responses i < j that still stands.

    The vote is 1 where the first SHOWN of the two is better, 0 for a tie, else -1; a rater who saw
    both orders is there twice.
    """
    said = []
    for judgment in (judgment for voice in unit.voices for judgment in voice):
        value = between(judgment, i, j)
        if value is not None:
            swapped = judgment.comparison_id.endswith(SWAPPED)
            sign = (value > 0) - (value < 0)
            said.append((judgment.rater.id, -sign if swapped else sign, swapped))
    return said


def votes_between(unit: Unit, i: int, j: int) -> list[Vote]:
    """Return the vote of each rater who said which of responses i and j is better.

    Verdicts of one rater in the two orders are averaged, so a judge who contradicts itself votes
    tie. A choice of one among several responses says nothing about two others.
    """
    votes = []
    for voice in unit.voices:
        said = [(judgment, between(judgment, i, j)) for judgment in voice]
        heard = [(judgment, value) for judgment, value in said if value is not None]
        if heard:
            signed = fmean(value for _, value in heard)
            graded = all(judgment.kind in ("scale", "tie") for judgment, _ in heard)
            votes.append(Vote(judgment=heard[-1][0], signed=signed, graded=graded))
    return votes


def between(judgment: Judgment, i: int, j: int) -> float | None:
    """Return -3..3 of response i over response j, None when the judgment does not say."""
    if judgment.kind == "ranking":
        place = {p: rank for rank, group in enumerate(judgment.ranking) for p in group}
        return float((place[j] > place[i]) - (place[j] < place[i]))
    if judgment.kind == "rewrite" or (judgment.kind == "binary" and judgment.choice not in (i, j)):
        return None
    if judgment.kind == "binary":
        return 1.0 if judgment.choice == i else -1.0
    return _signed(judgment)


def signed_votes(
    judgments: Iterable[Judgment], *, dimension: str = "overall"
) -> Iterator[tuple[str, str, float]]:
    """Yield (comparison, rater, value) of verdicts on two responses, for agreement statistics.

    Values are -3..3, positive when the first response is better, 0 for a tie. A swapped comparison
    counts as its first order, the sign turned, so that both orders are one unit. Rankings, rewrites
    and unparsed answers are left out.
    """
    for judgment in judgments:
        if judgment.dimension == dimension and judgment.kind in ("binary", "scale", "tie"):
            turn = -1 if judgment.comparison_id.endswith(SWAPPED) else 1
            yield (
                judgment.comparison_id.removesuffix(SWAPPED),
                judgment.rater.id,
                turn * _signed(judgment),
            )


def _unit(comparison: Comparison, judgments: list[Judgment]) -> Unit:
    last: dict[str, dict[str, Judgment]] = defaultdict(dict)
    for judgment in judgments:
        last[judgment.rater.id][judgment.comparison_id] = judgment
    voices = tuple(tuple(orders.values()) for orders in last.values())
    return Unit(
        comparison=comparison, voices=voices, repeats=len(judgments) - sum(map(len, voices))
    )


def _turned(judgment: Judgment, size: int) -> Judgment:
    """Return the judgment with positions counted in the first order of its comparison."""
    places = sorted(place for group in judgment.ranking for place in group)
    if (
        (judgment.choice is not None and not 0 <= judgment.choice < size)
        or (judgment.kind == "scale" and size != 2)
        or (judgment.kind == "ranking" and places != list(range(size)))
        or (judgment.scores and len(judgment.scores) != size)
    ):
        raise DataError(
            f"judgment {judgment.id}: its verdict does not fit the {size} responses shown. "
            "Count positions from 0, grade only two, rank and mark every response once."
        )
    if not judgment.comparison_id.endswith(SWAPPED):
        return judgment
    return replace(
        judgment,
        choice=None if judgment.choice is None else size - 1 - judgment.choice,
        grade=None if judgment.grade is None else 8 - judgment.grade,
        ranking=tuple(tuple(size - 1 - place for place in group) for group in judgment.ranking),
        scores=judgment.scores[::-1],
    )


def _signed(judgment: Judgment) -> float:
    """Return -3..3 of the first of two responses over the second."""
    if judgment.grade is not None:
        return float(signed_strength(judgment.grade))
    return 0.0 if judgment.choice is None else 1.0 - 2.0 * judgment.choice
