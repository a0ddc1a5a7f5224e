"""What a format is, and what people call the kinds of records."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from preftune.fields import Row
from preftune.messages import Notes
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    Response,
    UnpairedRow,
)

KIND_NAMES: dict[type[Record], str] = {
    PreferencePair: "pairs",
    RankedList: "ranked lists",
    UnpairedRow: "unpaired rows",
    Demonstration: "demonstrations",
    Prompt: "prompts",
    Response: "responses",
    Comparison: "comparisons",
    Judgment: "judgments",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One file format: how to know a row of it, read it and write it.

    `read` raises `RefusedError` for a row it cannot use and notes what is odd; `write` raises it
    for a record that has no place in the format at all. What a row of it merely leaves out, such
    as a strength, is found by the caller, who reads back what was written.
    """

    name: str
    kind: type[Record] | None  # the one kind of record it holds; None: every kind
    holds: str
    needs: tuple[str, ...]  # fields that every row has
    known: frozenset[str]  # all fields that are read; others are noted as unknown
    read: Callable[[Row, Notes], Record]
    write: Callable[[Any], Row]
    fits: Callable[[Row], bool] = lambda _: True  # tells formats with the same `needs` apart

    def takes(self, row: Row) -> bool:
        """Whether the row looks like one of this format."""
        return all(name in row for name in self.needs) and self.fits(row)
