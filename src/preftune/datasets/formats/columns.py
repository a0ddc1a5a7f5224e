"""Columns that may stand beside the text: what raters said, under the same names everywhere."""

from dataclasses import fields
from typing import Any

from preftune.fields import Row, integer, number, text
from preftune.messages import Messages
from preftune.types import (
    Demonstration,
    PreferencePair,
    Prompt,
    Provenance,
    RankedList,
    UnpairedRow,
    content_id,
)

COLUMNS: dict[str, type] = {
    "id": str,
    "prompt_id": str,
    "strength": int,
    "probability": float,
    "weight": float,
    "dimension": str,
    "chosen_score": float,
    "rejected_score": float,
    "why": str,
    "rater": str,
}
"""Name to type. `id` and `prompt_id` are written when they are not the hash of the content."""

_NAMES = frozenset(COLUMNS)
_FIELDS = (
    "strength",
    "probability",
    "weight",
    "dimension",
    "chosen_score",
    "rejected_score",
    "why",
)
_CHECKS = {str: text, int: integer, float: number}
Told = PreferencePair | RankedList | UnpairedRow | Demonstration

_DEFAULTS: dict[type[Told], dict[str, Any]] = {
    kind: {field.name: field.default for field in fields(kind)}
    for kind in (PreferencePair, RankedList, UnpairedRow, Demonstration)
}
_COLUMNS_OF = {
    kind: frozenset(
        {"prompt_id"} | (_NAMES & own.keys()) | ({"rater"} if "provenance" in own else set())
    )
    for kind, own in _DEFAULTS.items()
}


def columns_of(kind: type[Told]) -> frozenset[str]:
    """Return the names of the columns that a kind of record has a place for."""
    return _COLUMNS_OF[kind]


def make_pair(row: Row, prompt: Prompt, chosen: Messages, rejected: Messages) -> PreferencePair:
    """Return a pair with all that the row's columns say of it."""
    told = _told(row, PreferencePair)
    told.setdefault("id", pair_id(prompt, chosen, rejected))
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, **told)


def make_demonstration(row: Row, prompt: Prompt, response: Messages) -> Demonstration:
    """Return a demonstration with all that the row's columns say of it."""
    told = _told(row, Demonstration)
    told.setdefault("id", demonstration_id(prompt, response))
    return Demonstration(prompt=prompt, response=response, **told)


def make_unpaired(row: Row, prompt: Prompt, response: Messages, *, desirable: bool) -> UnpairedRow:
    """Return an unpaired row with all that the row's columns say of it."""
    told = _told(row, UnpairedRow)
    told.setdefault("id", unpaired_id(prompt, response, desirable=desirable))
    return UnpairedRow(prompt=prompt, response=response, desirable=desirable, **told)


def make_ranked(
    row: Row,
    prompt: Prompt,
    responses: tuple[Messages, ...],
    ranks: tuple[int, ...],
    scores: tuple[float, ...],
) -> RankedList:
    """Return a ranked list with all that the row's columns say of it."""
    told = _told(row, RankedList)
    told.setdefault("id", content_id("ranked", prompt.id, responses, ranks))
    return RankedList(prompt=prompt, responses=responses, ranks=ranks, scores=scores, **told)


def source_prompt_id(row: Row) -> str:
    """Return the row's own `prompt_id`, or "" when it has none."""
    value = row.get("prompt_id")
    return "" if value is None else text(value, "prompt_id")


def write_columns(record: Told) -> Row:
    """Return the columns of a record that differ from what a reader would assume."""
    defaults = _DEFAULTS[type(record)]
    row: Row = {}
    if record.id != _own_id(record):
        row["id"] = record.id
    if record.prompt.id != content_id("p", record.prompt.messages, record.prompt.tools):
        row["prompt_id"] = record.prompt.id
    for name in _FIELDS:
        if name in defaults and (value := getattr(record, name)) != defaults[name]:
            row[name] = value
    raters = () if isinstance(record, Demonstration) else record.provenance.raters
    if len(raters) == 1:
        row["rater"] = raters[0]
    return row


def pair_id(prompt: Prompt, chosen: Messages, rejected: Messages) -> str:
    """Return the id of a pair whose source has none: equal content, equal id."""
    return content_id("pair", prompt.id, chosen, rejected)


def demonstration_id(prompt: Prompt, response: Messages) -> str:
    """Return the id of a demonstration whose source has none."""
    return content_id("demo", prompt.id, response)


def unpaired_id(prompt: Prompt, response: Messages, *, desirable: bool) -> str:
    """Return the id of an unpaired row whose source has none."""
    return content_id("unpaired", prompt.id, response, desirable)


def _own_id(record: Told) -> str:
    match record:
        case PreferencePair():
            return pair_id(record.prompt, record.chosen, record.rejected)
        case Demonstration():
            return demonstration_id(record.prompt, record.response)
        case UnpairedRow():
            return unpaired_id(record.prompt, record.response, desirable=record.desirable)
        case RankedList():
            return content_id("ranked", record.prompt.id, record.responses, record.ranks)


def _told(row: Row, kind: type[Told]) -> dict[str, Any]:
    """Return the columns of the row as arguments of `kind`; null counts as left out."""
    told: dict[str, Any] = {}
    for name in columns_of(kind) & row.keys():
        if row[name] is not None:
            told[name] = _CHECKS[COLUMNS[name]](row[name], name)
    told.pop("prompt_id", None)
    if "rater" in told:
        told["provenance"] = Provenance(raters=(told.pop("rater"),))
    return told
