"""What would change if one rater were excluded: pairs gained, lost, turned round, and agreement."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.comparisons.rater_model import RaterModel
from preftune.comparisons.votes import SWAPPED, signed_votes
from preftune.errors import DataError
from preftune.stats.agreement import krippendorff_alpha
from preftune.types import Comparison, Judgment, Message, PreferencePair

Messages = tuple[Message, ...]
Two = tuple[str, frozenset[Messages]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterChange:
    """Pairs by id, in the order of the comparisons; alpha is nominal, None where there is none."""

    rater: str
    judgments: int  # that would go, of the dimension
    gained: list[str]  # ties or even splits that become pairs
    lost: list[str]  # pairs that become ties, or have no vote left
    flipped: list[str]  # pairs whose chosen and rejected change places
    kept: int  # pairs of the same direction, among the comparisons this rater judged
    alpha_before: float | None
    alpha_after: float | None


def without_rater(
    comparisons: Iterable[Comparison],
    judgments: Iterable[Judgment],
    rater: str,
    *,
    dimension: str = "overall",
    model: RaterModel | None = None,
) -> RaterChange:
    """Return what would change if a rater's judgments were left out; nothing is changed.

    Only the comparisons this rater judged are joined anew; agreement is that of all judgments.

    Args:
        comparisons: with unique ids.
        judgments: in the order given.
        rater: whose judgments to leave out.
        dimension: the one to look at.
        model: weighs the votes as in `pairs_from_judgments`; it is not fitted anew.

    Raises:
        DataError: the rater gave no judgment in this dimension; else as `pairs_from_judgments`.
    """
    said = [judgment for judgment in judgments if judgment.dimension == dimension]
    theirs = {_unit(j.comparison_id) for j in said if j.rater.id == rater}
    if not theirs:
        raise DataError(f"rater {rater}: no judgment in dimension {dimension}. Check the id.")
    shown = [c for c in comparisons if _unit(c.id) in theirs]
    near = [judgment for judgment in said if _unit(judgment.comparison_id) in theirs]
    rest = [judgment for judgment in said if judgment.rater.id != rater]
    before = _pairs(shown, near, dimension, model)
    after = _pairs(shown, [j for j in near if j.rater.id != rater], dimension, model)
    both = [two for two in before if two in after]
    flipped = [two for two in both if before[two].chosen != after[two].chosen]
    return RaterChange(
        rater=rater,
        judgments=len(said) - len(rest),
        gained=[pair.id for two, pair in after.items() if two not in before],
        lost=[pair.id for two, pair in before.items() if two not in after],
        flipped=[before[two].id for two in flipped],
        kept=len(both) - len(flipped),
        alpha_before=_alpha(said, dimension),
        alpha_after=_alpha(rest, dimension),
    )


def _unit(comparison_id: str) -> str:
    return comparison_id.removesuffix(SWAPPED)


def _pairs(
    comparisons: Sequence[Comparison],
    judgments: Sequence[Judgment],
    dimension: str,
    model: RaterModel | None,
) -> dict[Two, PreferencePair]:
    """Return the pairs by comparison and the two texts, whichever of them is chosen."""
    joined = pairs_from_judgments(comparisons, judgments, dimension=dimension, model=model)
    return {
        (pair.provenance.comparison_id, frozenset((pair.chosen, pair.rejected))): pair
        for pair in joined.pairs
    }


def _alpha(judgments: Iterable[Judgment], dimension: str) -> float | None:
    """Return nominal alpha of who is better, None where no two votes can be compared."""
    votes = signed_votes(judgments, dimension=dimension)
    signs = [(unit, rater, (value > 0) - (value < 0)) for unit, rater, value in votes]
    try:
        return krippendorff_alpha(signs)
    except DataError:
        return None
