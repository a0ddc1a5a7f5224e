"""What an audit looks at: the pairs with their lines, and every vote that anybody cast."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.comparisons.vote_table import VoteTable
from preftune.comparisons.votes import SWAPPED, between
from preftune.datasets.audit_words import Words
from preftune.datasets.checks import Known
from preftune.datasets.convert import convert
from preftune.datasets.read import read_comparisons, scan
from preftune.datasets.scanned import Scanned
from preftune.errors import DataError
from preftune.stats.intervals import cluster_places
from preftune.types import (
    Comparison,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    RankedList,
    RaterKind,
    content_id,
    text_of,
)

KINDS: tuple[RaterKind, ...] = ("human", "simulated", "judge", "rule", "unknown")
"""Whose votes count first: people, then programs."""
FEWEST_PROMPTS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class LinedPair:
    """A pair, the line it stands on, and the key that all rows with its prompt share."""

    line: int
    prompt: str
    pair: PreferencePair

    @property
    def unit(self) -> str:
        """What tells this pair from the others."""
        return f"{self.line}/{self.pair.id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """One rater's vote on two responses, counted in the first order of their comparison."""

    unit: str  # the comparison and the dimension; both orders are one unit
    prompt: str
    dimension: str
    rater: str
    kind: RaterKind
    value: float  # -3..3; above 0 the first response is better, 0 is a tie
    swapped: bool | None  # whether the second was shown first; None: not known
    guideline: str = ""
    texts: tuple[str, str] = ("", "")
    generators: tuple[str | None, str | None] = (None, None)

    @property
    def sign(self) -> int:
        """1: the first is better, -1: the second, 0: a tie."""
        return (self.value > 0) - (self.value < 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Everything that was read, before anything is said about it."""

    source: str
    format: str
    rows: list[Scanned]  # of the file itself
    pairs: list[LinedPair]  # what would be trained on; ranked lists as all their pairs
    comparisons: dict[str, Comparison]
    judgments: list[Judgment]  # on these comparisons, where comparisons are known
    ballots: list[Ballot]
    kinds: tuple[RaterKind, ...]  # of the raters that voted, people first
    few_prompts: bool  # too few to draw intervals over: then they are over pairs
    notes: tuple[str, ...] = ()
    words: Words = field(default_factory=Words)
    known: Known = field(default_factory=Known)

    def clusters(self, items: Sequence[LinedPair] | Sequence[Ballot]) -> list[str]:
        """Return what intervals are drawn over: the prompt, or the pair where prompts are few."""
        return [item.unit if self.few_prompts else item.prompt for item in items]


def read_material(
    path: Path,
    *,
    judgments: Path | None = None,
    comparisons: Path | None = None,
    format: str | None = None,
) -> Material:
    """Return what is in a file of pairs, ranked lists, or comparisons and judgments.

    Args:
        path: the dataset; its bad rows are kept, to be told.
        judgments: the votes behind the pairs, where they are in a file of their own.
        comparisons: what was judged; may be the same file.
        format: of `path`; detected when None.

    Raises:
        DataError: a file cannot be read, or holds nothing that prefers one response to another.
    """
    opened = scan(path, format=format)
    rows = list(opened.rows)
    shown: list[Comparison] = []
    said: list[Judgment] = []
    for file in dict.fromkeys(file for file in (comparisons, judgments) if file is not None):
        more_shown, more_said = read_comparisons(file)
        shown += more_shown
        said += more_said
    return material_of(
        rows, source=str(path), format=opened.format, comparisons=shown, judgments=said
    )


def material_of(
    rows: list[Scanned],
    *,
    source: str,
    format: str = "preftune",
    comparisons: Iterable[Comparison] = (),
    judgments: Iterable[Judgment] = (),
) -> Material:
    """Return what is in rows already read, and in votes from elsewhere.

    Args:
        rows: of the dataset.
        source: its file.
        format: its format, to be told.
        comparisons: what was judged, beside those among the rows.
        judgments: votes, beside those among the rows.

    Raises:
        DataError: nothing here prefers one response to another.
    """
    shown = _comparisons(rows) | {comparison.id: comparison for comparison in comparisons}
    said = [row.record for row in rows if isinstance(row.record, Judgment) and row.usable]
    said += judgments
    heard, notes = _on_known(said, shown)
    known = Known()
    pairs, said_of_pairs = _pairs(rows, shown, heard, known)
    ballots = list(_ballots(heard, shown, known)) or list(_ballots_of_pairs(pairs))
    prompts = len({pair.prompt for pair in pairs} | {ballot.prompt for ballot in ballots})
    few = [few_note(prompts)] if prompts < FEWEST_PROMPTS else []
    voted = {ballot.kind for ballot in ballots}
    if not pairs and not ballots:
        raise DataError(
            f"{source}: prefers no response to another. Give pairs, ranked lists, or comparisons "
            "with judgments; `preftune data inspect` shows what it holds."
        )
    return Material(
        source=Path(source).name,
        format=format,
        rows=rows,
        pairs=pairs,
        comparisons=shown,
        judgments=heard,
        ballots=ballots,
        kinds=tuple(kind for kind in KINDS if kind in voted),
        few_prompts=bool(few),
        notes=(*notes, *said_of_pairs, *few),
        known=known,
    )


def vote_columns(material: Material, ballots: Sequence[Ballot]) -> VoteTable:
    """Return votes as columns; where the side is not known, as if shown in the first order."""
    units: dict[str, int] = {}
    raters: dict[str, int] = {}
    kinds: dict[str, RaterKind] = {}
    cluster: dict[str, str] = {}
    for ballot, name in zip(ballots, material.clusters(ballots), strict=True):
        units.setdefault(ballot.unit, len(units))
        raters.setdefault(ballot.rater, len(raters))
        kinds.setdefault(ballot.rater, ballot.kind)
        cluster.setdefault(ballot.unit, name)
    swapped = np.array([bool(ballot.swapped) for ballot in ballots], dtype=bool)
    sign = np.array([ballot.sign for ballot in ballots], dtype=np.int8)
    return VoteTable(
        units=tuple(units),
        raters=tuple(raters),
        kinds=tuple(kinds.values()),
        clusters="comparison" if material.few_prompts else "prompt",
        cluster=cluster_places(list(cluster.values())),
        unit=np.array([units[ballot.unit] for ballot in ballots], dtype=np.int64),
        rater=np.array([raters[ballot.rater] for ballot in ballots], dtype=np.int64),
        shown=np.where(swapped, -sign, sign).astype(np.int8),
        swapped=swapped,
        seconds=np.full(len(ballots), np.nan),
    )


def joined(
    comparisons: Mapping[str, Comparison], judgments: Sequence[Judgment]
) -> tuple[list[PreferencePair], RaterKind]:
    """Return the pairs that the votes make, in every dimension, and the kind of rater asked.

    Kinds are never mixed: people are asked where there are any, else programs.
    """
    there = {judgment.rater.kind for judgment in judgments}
    kind = next(kind for kind in KINDS if kind in there)
    kept = [judgment for judgment in judgments if judgment.rater.kind == kind]
    made: list[PreferencePair] = []
    for dimension in dict.fromkeys(judgment.dimension for judgment in kept):
        made += pairs_from_judgments(comparisons.values(), kept, dimension=dimension).pairs
    return made, kind


def few_note(prompts: int) -> str:
    """Return what must be said of intervals over so few prompts."""
    return (
        f"Only {prompts:,} prompts: intervals are drawn over pairs and hold for these prompts "
        "alone. Other prompts may differ."
    )


def answer(messages: Sequence[Message]) -> str:
    """Return the last assistant turn, the part that answers; empty without one."""
    return next((m.content for m in reversed(messages) if m.role == "assistant"), "")


def _comparisons(rows: Iterable[Scanned]) -> dict[str, Comparison]:
    return {
        row.record.id: row.record
        for row in rows
        if isinstance(row.record, Comparison) and row.usable
    }


def _on_known(
    judgments: list[Judgment], comparisons: Mapping[str, Comparison]
) -> tuple[list[Judgment], list[str]]:
    """Return the judgments whose comparison is there, and a note on those left out."""
    if not comparisons:
        return judgments, []
    kept = [judgment for judgment in judgments if judgment.comparison_id in comparisons]
    lost = len(judgments) - len(kept)
    what = f"{lost:,} judgments are on comparisons that are not here or not usable; left out."
    return kept, [what] if lost else []


def _pairs(
    rows: Sequence[Scanned],
    comparisons: Mapping[str, Comparison],
    judgments: Sequence[Judgment],
    known: Known,
) -> tuple[list[LinedPair], list[str]]:
    """Return the pairs of the file, or those its votes make, and notes on how they came about."""
    lost: Counter[str] = Counter()
    pairs: list[LinedPair] = []
    for row in rows:
        if row.usable and isinstance(row.record, PreferencePair | RankedList):
            made = convert([row.record], "pairs", lost)
            pairs += [_lined(row.line, p, known) for p in made if isinstance(p, PreferencePair)]
    notes = [f"Ranked lists: {count:,} {what}." for what, count in lost.items() if "pair" in what]
    if pairs or not judgments or not comparisons:
        return pairs, notes
    lines = {row.record.id: row.line for row in rows if isinstance(row.record, Comparison)}
    made_pairs, kind = joined(comparisons, judgments)
    note = f"The file holds votes: its pairs are those that votes of kind {kind} make."
    if not made_pairs:
        note = "The votes make no pairs: all are ties, or on responses that are empty or the same."
    notes.append(note)
    return [_lined(_line_of(pair, lines), pair, known) for pair in made_pairs], notes


def _lined(line: int, pair: PreferencePair, known: Known) -> LinedPair:
    return LinedPair(line=line, prompt=_prompt_key(pair.prompt, known), pair=pair)


def _prompt_key(prompt: Prompt, known: Known) -> str:
    """Return the key of a prompt's words, or its id where a set holds no words."""
    return known.key(prompt) if any(m.content for m in prompt.messages) else prompt.id


def _line_of(pair: PreferencePair, lines: Mapping[str, int]) -> int:
    """Return the line of the comparison a pair was made from; 0 when it is in another file."""
    shown = pair.provenance.comparison_id
    return lines.get(shown, lines.get(f"{shown}{SWAPPED}", 0))


def _ballots(
    judgments: Sequence[Judgment], comparisons: Mapping[str, Comparison], known: Known
) -> Iterator[Ballot]:
    """Yield every vote on two responses, in the order cast; a ranking is one on every two."""
    prompts: dict[str, str] = {}
    seen: dict[tuple[str, int, int], _Sides] = {}
    for judgment in judgments:
        shown = comparisons.get(judgment.comparison_id)
        size = len(shown.responses) if shown is not None else 2
        base, swapped = judgment.comparison_id.removesuffix(SWAPPED), _is_swapped(judgment)
        for i, j, value in _values(judgment, size):
            # places in the first order: a swap shows them all the other way round
            a, b = (size - 1 - j, size - 1 - i) if swapped else (i, j)
            sides = seen.get((judgment.comparison_id, a, b))
            if sides is None:
                sides = _sides(shown, (a, b), prompts, known) if shown is not None else _Sides(base)
                seen[judgment.comparison_id, a, b] = sides
            yield Ballot(
                unit=f"{base}/{judgment.dimension}" + f"/{a}-{b}" * (size > 2),
                prompt=sides.prompt,
                dimension=judgment.dimension,
                rater=judgment.rater.id,
                kind=judgment.rater.kind,
                value=-value if swapped else value,
                swapped=swapped if size == 2 else None,  # a list has no two sides
                guideline=judgment.guideline,
                texts=sides.texts,
                generators=sides.generators,
            )


def _values(judgment: Judgment, size: int) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, value) of every two places shown of which the judgment says who is better."""
    if judgment.kind in ("rewrite", "unparsed"):
        return
    for i, j in combinations(range(size), 2):
        value = between(judgment, i, j)
        if value is not None:
            yield i, j, value


def _is_swapped(judgment: Judgment) -> bool:
    return judgment.comparison_id.endswith(SWAPPED)


class _Sides(NamedTuple):
    """What a vote is on: the key of the prompt, and two responses in the first order."""

    prompt: str
    texts: tuple[str, str] = ("", "")
    generators: tuple[str | None, str | None] = (None, None)


def _sides(
    shown: Comparison, places: tuple[int, int], prompts: dict[str, str], known: Known
) -> _Sides:
    """Return what a vote on two places is on; places are counted in the first order."""
    turn = -1 if shown.id.endswith(SWAPPED) else 1
    first, second = (shown.responses[::turn][place] for place in places)
    if shown.prompt.id not in prompts:
        prompts[shown.prompt.id] = _prompt_key(shown.prompt, known)
    return _Sides(
        prompts[shown.prompt.id],
        (text_of(first.messages), text_of(second.messages)),
        (first.generator, second.generator),
    )


def _ballots_of_pairs(pairs: Iterable[LinedPair]) -> Iterator[Ballot]:
    """Yield the votes that pairs tell of: those of pairs that name just one rater.

    Where several are named, the pair does not tell who of them voted for what.
    """
    for lined in pairs:
        pair, came = lined.pair, lined.pair.provenance
        if len(came.raters) != 1:
            continue
        texts = (text_of(pair.chosen), text_of(pair.rejected))
        turned = texts[0] > texts[1]
        makers = (came.chosen_generator, came.rejected_generator)
        shown_first = came.chosen_shown_first
        yield Ballot(
            unit=content_id("u", lined.prompt, sorted(texts), pair.dimension),
            prompt=lined.prompt,
            dimension=pair.dimension,
            rater=came.raters[0],
            kind=came.rater_kind,
            value=-1.0 if turned else 1.0,
            swapped=None if shown_first is None else shown_first == turned,
            guideline=came.guideline,
            texts=texts[::-1] if turned else texts,
            generators=makers[::-1] if turned else makers,
        )
