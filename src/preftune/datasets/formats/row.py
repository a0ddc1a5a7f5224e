"""What a format is, and the getters that all formats read their rows with."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from preftune.datasets.scanned import Problem, RefusedError
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

Row = dict[str, Any]
"""One row as plain values: an object of a JSON Lines file, or the named cells of a table."""

Notes = list[Problem]
"""Where a reader writes down what is odd with a row that it reads all the same."""

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


def kind_name(value: object) -> str:
    """Return how a person calls the type of a JSON value."""
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


def wrong_type(where: str, value: object, wanted: str) -> RefusedError:
    """Return the refusal of a field that holds the wrong type of value."""
    return RefusedError(
        "wrong_type", f"{where} is {kind_name(value)}, not {wanted}", f"Give {wanted}."
    )


def need(row: Row, name: str) -> Any:
    """Return a field that must be there."""
    if name not in row:
        raise RefusedError("missing_field", f"field {name!r} is missing", "Add it to the row.")
    return row[name]


def text(value: object, where: str) -> str:
    """Return a value that must be text."""
    if not isinstance(value, str):
        raise wrong_type(where, value, "text")
    return value


def number(value: object, where: str) -> float:
    """Return a value that must be a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(where, value, "a number")
    if not math.isfinite(value):
        raise RefusedError("not_finite", f"{where} is {value}", "Give a finite number.")
    return float(value)


def integer(value: object, where: str) -> int:
    """Return a value that must be a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(where, value, "a whole number")
    return value


def items(value: object, where: str) -> list[Any]:
    """Return a value that must be a list."""
    if not isinstance(value, list):
        raise wrong_type(where, value, "a list")
    return value


def mapping(value: object, where: str) -> Row:
    """Return a value that must be an object."""
    if not isinstance(value, dict):
        raise wrong_type(where, value, "an object")
    return value
