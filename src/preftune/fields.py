"""Getters of the fields of a row: the value, or a refusal that says what it should have been."""

import math
from typing import Any

from preftune.lines import RefusedError

Row = dict[str, Any]
"""One row as plain values: an object of a JSON Lines file, or the named cells of a table."""


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
