"""All about the raters of a file: agreement, the table, leans, and what their votes are worth."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import get_args

from preftune.comparisons.bias import Lean, length_bias, position_bias
from preftune.comparisons.rater_change import RaterChange, without_rater
from preftune.comparisons.rater_model import RaterModel, fit_raters
from preftune.comparisons.rater_report import RaterRow, report_of
from preftune.comparisons.vote_table import Clusters, VoteTable, vote_table
from preftune.comparisons.votes import SWAPPED, signed_votes
from preftune.errors import DataError
from preftune.stats.agreement import Level, alpha_interval, krippendorff_alpha
from preftune.types import Comparison, Judgment, RaterKind

REAL_SETS = (
    ("pandalm", 0.861, "curated: items without agreement were taken out"),
    ("tulu1-human", 0.359, "five grades, by direction and strength; ordinal 0.473"),
    ("llmfao", 0.304, "crowd, ties allowed"),
    ("ukp-convarg", 0.284, "crowd, which argument convinces more"),
    ("crag25", 0.166, "crowd, quality of answers; 0.063 to 0.186 by dimension"),
)
"""Nominal alpha of people in public sets: what agreement looks like."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Krippendorff's alpha of one kind of raters in one dimension, with its 95 % interval."""

    dimension: str
    kind: RaterKind
    raters: int
    votes: int
    level: Level
    alpha: float | None  # None where no two votes can be compared
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterSummary:
    """What `preftune raters` shows of one dimension."""

    dimension: str
    clusters: Clusters  # what the intervals count
    agreement: list[Agreement]  # of every dimension
    rows: list[RaterRow]
    positions: list[Lean]  # by kind of rater
    lengths: list[Lean]  # by kind of rater
    model: RaterModel | None
    why_no_model: str
    change: RaterChange | None  # without one rater, if that was asked


def summarise_raters(
    comparisons: Sequence[Comparison],
    judgments: Sequence[Judgment],
    *,
    dimension: str = "overall",
    gold: str = "",
    kinds: Iterable[str] = (),
    without: str = "",
    rounds: int = 400,
) -> RaterSummary:
    """Return agreement, rater rows, leans and rater model of a file of comparisons and judgments.

    Args:
        comparisons: all that were judged.
        judgments: in the order given.
        dimension: of the table, the leans and the model; agreement is shown for all of them.
        gold: id of the rater whose verdicts are the right answers; left out of everything else.
        kinds: kinds of raters to look at; all when left out.
        without: rater to leave out once, to see what would change.
        rounds: bootstrap rounds of the agreement intervals.

    Raises:
        DataError: an unknown kind, no such judgment, no verdict of the gold rater or of the one to
            leave out, or a judgment of a comparison that is not given.
    """
    wanted = set(kinds)
    if unknown := wanted - set(get_args(RaterKind)):
        raise DataError(f"kind {min(unknown)!r}. Use one of: {', '.join(get_args(RaterKind))}.")
    right = [j for j in judgments if j.rater.id == gold]
    if gold and not right:
        raise DataError(f"rater {gold}: no verdict, so there is no gold. Check the id.")
    heard = [j for j in judgments if j.rater.id != gold and (not wanted or j.rater.kind in wanted)]
    votes = vote_table(heard, comparisons, dimension=dimension)
    if not len(votes):
        found = ", ".join(sorted({j.dimension for j in heard})) or "none"
        raise DataError(
            f"no verdict between two responses in dimension {dimension}. Dimensions with judgments "
            f"of these raters: {found}."
        )
    answers = gold_answers(right, comparisons, dimension=dimension)
    model, why = _model(votes, answers)
    change = None
    if without:
        change = without_rater(comparisons, heard, without, dimension=dimension, model=model)
    return RaterSummary(
        dimension=dimension,
        clusters=votes.clusters,
        agreement=_agreement(heard, _prompts(comparisons, votes), rounds),
        rows=report_of(votes, gold=answers),
        positions=position_bias(votes, by="kind"),
        lengths=length_bias(heard, comparisons, by="kind", dimension=dimension),
        model=model,
        why_no_model=why,
        change=change,
    )


def gold_answers(
    judgments: Iterable[Judgment],
    comparisons: Iterable[Comparison] = (),
    *,
    dimension: str = "overall",
) -> dict[str, int]:
    """Return unit → 1, 0 or -1 from judgments that are the right answers, as `rater_report` takes.

    Raises:
        DataError: as `vote_table`.
    """
    table = vote_table(judgments, comparisons, dimension=dimension)
    said = zip(table.unit.tolist(), table.vote.tolist(), strict=True)
    return {table.units[unit]: vote for unit, vote in said}


def _model(votes: VoteTable, gold: dict[str, int]) -> tuple[RaterModel | None, str]:
    sides = {unit: side for unit, side in gold.items() if side}
    try:
        return fit_raters(votes, gold=sides), ""
    except DataError as error:
        return None, str(error)


def _prompts(comparisons: Iterable[Comparison], votes: VoteTable) -> dict[str, str] | None:
    """Return the prompt of each comparison where intervals count prompts, else None."""
    if votes.clusters == "comparison":
        return None
    return {shown.id.removesuffix(SWAPPED): shown.prompt.id for shown in comparisons}


def _agreement(
    judgments: Iterable[Judgment], prompt_of: dict[str, str] | None, rounds: int
) -> list[Agreement]:
    """Return alpha of each dimension and kind of raters, ordinal too where votes are graded."""
    groups: dict[tuple[str, RaterKind], list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        groups[judgment.dimension, judgment.rater.kind].append(judgment)
    found = []
    for (dimension, kind), said in groups.items():
        signed = list(signed_votes(said, dimension=dimension))
        levels: tuple[Level, ...] = ("nominal",)
        if any(judgment.kind == "scale" for judgment in said):
            levels = ("nominal", "ordinal")
        for level in levels:
            alpha = low = high = None
            with suppress(DataError):  # nothing to compare: shown as no alpha
                alpha = krippendorff_alpha(signed, level=level)
                low, high = alpha_interval(signed, level=level, cluster_of=prompt_of, rounds=rounds)
            found.append(
                Agreement(
                    dimension=dimension,
                    kind=kind,
                    raters=len({rater for _, rater, _ in signed}),
                    votes=len(signed),
                    level=level,
                    alpha=alpha,
                    low=low,
                    high=high,
                )
            )
    return found
