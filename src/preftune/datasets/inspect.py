"""What is in a preference file: counts, lengths, ties, length bias, repeats, odd rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from preftune.comparisons.bias import LengthBias, length_wins
from preftune.datasets.checks import Finding, Known, check_rows, same_prompt_groups
from preftune.datasets.read import scan
from preftune.datasets.scanned import Scanned
from preftune.datasets.views import (
    KINDS,
    answer_length,
    decided,
    first_turn_key,
    is_multi_turn,
    is_tie,
    prompt_length,
    prompt_of,
    responses_of,
)
from preftune.datasets.write import dataset_hash
from preftune.stats.intervals import wilson
from preftune.types import Judgment, PreferencePair, RankedList, Record, UnpairedRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Characters of one kind of text over all rows."""

    n: int
    mean: float
    median: float
    p95: float
    longest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Everything `preftune data inspect` shows of one file. Rows that a record could be built from
    are counted even when they cannot be used; lengths are in characters.
    """

    source: str
    format: str
    dataset_hash: str  # of the usable records, in order
    rows: int
    usable: int
    kinds: dict[str, int]
    lengths: dict[str, list[int]]  # prompt, chosen, rejected, response
    bias: LengthBias
    ties: int
    strengths: dict[int, int]  # 0..3 → pairs and judgments that say so
    with_prompt: int
    prompts: int  # different ones
    first_turns: int  # different ones, case and white space aside
    same_prompt: int  # rows that share their prompt with another row
    multi_turn: int
    raters: dict[str, int]  # id → verdicts
    dimensions: dict[str, int]
    findings: tuple[Finding, ...]

    def count(self, kind: str) -> int:
        """Return on how many rows a kind of finding stands."""
        return sum(len(f.lines) for f in self.findings if f.kind == kind)


def inspect_file(path: Path, *, format: str | None = None) -> Inspection:
    """Return what is in a file; `format` is detected when None.

    Raises:
        DataError: the file cannot be read at all, or is in no known format.
    """
    opened = scan(path, format=format)
    return inspect_rows(opened.rows, source=path.name, format=opened.format)


def inspect_rows(
    rows: Iterable[Scanned],
    *,
    source: str,
    format: str,
    hashed: str = "",
    known: Known | None = None,
) -> Inspection:
    """Return what is in rows already read.

    Args:
        rows: of a file.
        source: its name, only kept to be shown.
        format: its format, the same.
        hashed: hash of the usable records where it is known already; worked out otherwise.
        known: what checks have worked out of the same records before.
    """
    rows, known = list(rows), known or Known()
    records = [row.record for row in rows if row.record is not None]
    usable = [row.record for row in rows if row.usable and row.record is not None]
    shared = same_prompt_groups(rows, known)
    prompts = [prompt for record in records if (prompt := prompt_of(record)) is not None]
    different = {known.key(prompt): prompt for prompt in prompts}
    return Inspection(
        source=source,
        format=format,
        dataset_hash=hashed or dataset_hash(usable),
        rows=len(rows),
        usable=len(usable),
        kinds=dict(Counter(KINDS[type(record)] for record in records)),
        lengths=lengths_of(records),
        bias=length_bias(records),
        ties=sum(map(is_tie, records)),
        strengths=_strengths(records),
        with_prompt=len(prompts),
        prompts=len(different),
        first_turns=len(set(map(first_turn_key, different.values()))),
        same_prompt=sum(map(len, shared)),
        multi_turn=sum(map(is_multi_turn, records)),
        raters=dict(Counter(rater for record in records for rater in _raters(record))),
        dimensions=dict(Counter(_dimensions(records))),
        findings=tuple(check_rows(rows, known)),
    )


def lengths_of(records: Iterable[Record]) -> dict[str, list[int]]:
    """Return the characters of every prompt and of every last response turn, by side."""
    found: dict[str, list[int]] = {"prompt": [], "chosen": [], "rejected": [], "response": []}
    for record in records:
        prompt = prompt_of(record)
        if prompt is not None:
            found["prompt"].append(prompt_length(prompt))
        sides = ("chosen", "rejected") if isinstance(record, PreferencePair) else repeat("response")
        for side, messages in zip(sides, responses_of(record), strict=False):
            found[side].append(answer_length(messages))
    return {name: lengths for name, lengths in found.items() if lengths}


def summarise(lengths: Sequence[int]) -> Lengths:
    """Return mean, median, 95th percentile (linear) and longest of one or more lengths."""
    return Lengths(
        n=len(lengths),
        mean=float(np.mean(lengths)),
        median=float(np.median(lengths)),
        p95=float(np.percentile(lengths, 95)),
        longest=max(lengths),
    )


def length_bias(records: Sequence[Record]) -> LengthBias:
    """Return how often the shorter and the longer response won, each decision counted once.

    A pair is one decision, a ranked list one per two responses of different rank, a comparison the
    majority of its judgments. The length is the characters of the last assistant turn.
    """
    return length_wins((answer_length(a), answer_length(b)) for a, b in decided(records))


def summary(found: Inspection) -> list[tuple[str, str]]:
    """Return the inspection as (label, value) lines; the terminal and the card show the same."""
    lines = [
        ("file", f"{found.source} (format {found.format})"),
        ("rows", f"{found.rows:,}, of them {found.usable:,} usable"),
        ("holds", ", ".join(f"{n:,} {kind}" for kind, n in found.kinds.items()) or "no record"),
        ("dataset hash", found.dataset_hash),
    ]
    if found.with_prompt:
        repeats = f"{found.same_prompt:,} rows share theirs with another row"
        lines.append(("prompts", f"{found.prompts:,} different; {repeats}"))
        lines.append(("first turns", f"{found.first_turns:,} different"))
        lines.append(("multi-turn", _share(found.multi_turn, found.rows)))
    lines += zip(("length bias", "", ""), bias_lines(found.bias), strict=False)
    lines.append(("ties", f"{found.ties:,}"))
    strengths = ", ".join(f"{value}: {n:,}" for value, n in sorted(found.strengths.items()))
    lines.append(("strength", strengths or "not said"))
    lines.append(("duplicates", f"{found.count('duplicate'):,} rows repeat an earlier one"))
    lines.append(("conflicts", f"{found.count('conflict'):,} rows contradict another"))
    lines.append(("raters", _raters_line(found.raters)))
    dimensions = sorted(found.dimensions.items(), key=lambda item: -item[1])
    lines.append(("dimensions", ", ".join(f"{name} {n:,}" for name, n in dimensions) or "none"))
    return lines


def bias_lines(bias: LengthBias) -> list[str]:
    """Return the length bias in words, with Wilson 95 % intervals; nothing when nobody won."""
    if not bias.n:
        return []
    lines = [
        f'"shorter wins" is right in {_percent(bias.shorter, bias.n)} of {bias.n:,} pairs '
        f"{_interval(bias.shorter, bias.n)}"
    ]
    if bias.unequal:
        lines.append(
            f"the longer wins in {_percent(bias.longer, bias.unequal)} of the {bias.unequal:,} "
            f"of unequal length {_interval(bias.longer, bias.unequal)}"
        )
    return [*lines, f"direction: {bias.direction()}"]


def _interval(successes: int, n: int) -> str:
    interval = wilson(successes, n)
    return f"(95 % interval {100 * interval.low:.1f}–{100 * interval.high:.1f} %)"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} rows ({_percent(part, whole)})"


def _strengths(records: Iterable[Record]) -> dict[int, int]:
    said = (r.strength for r in records if isinstance(r, PreferencePair | Judgment))
    return dict(Counter(strength for strength in said if strength is not None))


def _raters(record: Record) -> tuple[str, ...]:
    if isinstance(record, Judgment):
        return (record.rater.id,)
    if isinstance(record, PreferencePair | RankedList | UnpairedRow):
        return record.provenance.raters
    return ()


def _raters_line(raters: dict[str, int]) -> str:
    if not raters:
        return "not named"
    few, most = min(raters.values()), max(raters.values())
    each = f"{few:,}" if few == most else f"{few:,} to {most:,}"
    return f"{len(raters):,}, with {each} verdicts each"


def _dimensions(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        if isinstance(record, PreferencePair | RankedList | UnpairedRow | Judgment):
            yield record.dimension
