"""Messages as the field writes them, `{"role", "content", …}`: one reader for all sources."""

from typing import Any, get_args

import msgspec

from preftune.fields import Row, items, mapping, text, wrong_type
from preftune.lines import Problem, RefusedError, parse_json
from preftune.types import Message, Role, ToolCall

Messages = tuple[Message, ...]
Notes = list[Problem]
"""Where a reader writes down what is odd with a row that it reads all the same."""
ROLES = frozenset(get_args(Role))
_SHOWN_OF_ROLE = 40  # characters
_PLAIN = frozenset({"role", "content"})
KNOWN = _PLAIN | {"name", "tool_calls", "tool_call_id", "weight"}
"""The fields of a message that are read; `refusal` only where there is no content."""


def read_messages(value: object, where: str, notes: Notes) -> Messages:
    """Return a list of messages; at least one."""
    found = items(value, where)
    if not found:
        raise RefusedError("no_messages", f"{where} has no messages", "Give one or more.")
    return tuple(read_message(one, f"{where}[{i}]", notes) for i, one in enumerate(found))


def read_message(value: object, where: str, notes: Notes) -> Message:
    """Return one message; a field with null counts as left out, a refusal in its place is text."""
    row = mapping(value, where)
    role = row.get("role")
    if role == "developer":
        role = "system"
        notes.append(_odd("developer_role", f"{where} has role 'developer', read as 'system'"))
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(sorted(ROLES))
        shown = role[:_SHOWN_OF_ROLE] if isinstance(role, str) else role
        raise RefusedError("unknown_role", f"{where} has role {shown!r}", f"Use one of: {known}.")
    calls = row.get("tool_calls")
    said = "content" if row.get("content") is not None or row.get("refusal") is None else "refusal"
    content = _content(row.get(said), f"{where}.{said}", notes, optional=bool(calls))
    if row.keys() <= _PLAIN:
        return Message(role=role, content=content)  # type: ignore[arg-type]  # one of ROLES
    for name in sorted(row.keys() - KNOWN - {said}):
        if row[name] is not None:
            notes.append(_odd("unknown_field", f"{where} has an unknown field {name!r}, not kept"))
    return Message(
        role=role,  # type: ignore[arg-type]  # one of ROLES
        content=content,
        tool_calls=_tool_calls(calls, f"{where}.tool_calls") if calls is not None else (),
        tool_call_id=_optional_text(row, "tool_call_id", where),
        name=_optional_text(row, "name", where),
        weight=_weight(row.get("weight"), f"{where}.weight"),
    )


def read_tools(value: object) -> tuple[dict[str, Any], ...]:
    """Return the tools offered: a list of objects, or the same as JSON text (as tables hold it)."""
    if isinstance(value, str):
        value = parse_json(b'{"tools":%s}' % value.encode())["tools"]
    return tuple(mapping(one, f"tools[{i}]") for i, one in enumerate(items(value, "tools")))


def _content(value: object, where: str, notes: Notes, *, optional: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if not isinstance(value, list):
        raise wrong_type(where, value, "text")
    parts = [mapping(part, f"{where}[{i}]") for i, part in enumerate(value)]
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RefusedError(
                "not_text", f"{where} has a part that is not text", "Give text parts only."
            )
    notes.append(_odd("content_parts", f"{where} is a list of {len(parts)} text parts, joined"))
    return "".join(part["text"] for part in parts)


def _tool_calls(value: object, where: str) -> tuple[ToolCall, ...]:
    return tuple(_tool_call(call, f"{where}[{i}]") for i, call in enumerate(items(value, where)))


def _tool_call(value: object, where: str) -> ToolCall:
    row = mapping(value, where)
    call = mapping(row["function"], f"{where}.function") if "function" in row else row
    arguments = call.get("arguments")
    if isinstance(arguments, dict):  # as TRL writes them; OpenAI writes JSON text
        arguments = msgspec.json.encode(arguments).decode()
    return ToolCall(
        id=_optional_text(row, "id", where) or "",
        name=text(call.get("name"), f"{where}.name"),
        arguments=text(arguments, f"{where}.arguments"),
    )


def _optional_text(row: Row, name: str, where: str) -> str | None:
    value = row.get(name)
    return None if value is None else text(value, f"{where}.{name}")


def _weight(value: object, where: str) -> Any:
    if value is None:
        return 1
    if isinstance(value, bool) or value not in (0, 1):
        raise RefusedError("wrong_type", f"{where} is {value!r}", "Give 0 or 1.")
    return int(value)


def _odd(kind: str, what: str) -> Problem:
    return Problem(kind=kind, what=what, fix="Nothing to do if that is meant.", fatal=False)
