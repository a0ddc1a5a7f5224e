"""Messages as the field writes them, `{"role", "content", …}`: one reader for all formats."""

from typing import Any, get_args

import msgspec

from preftune.datasets.formats.row import Notes, Row, items, mapping, text, wrong_type
from preftune.datasets.scanned import Problem, RefusedError
from preftune.lines import parse_json
from preftune.types import Message, Prompt, Role, ToolCall, content_id

Messages = tuple[Message, ...]
ROLES = frozenset(get_args(Role))
_PLAIN = frozenset({"role", "content"})
_KNOWN = _PLAIN | {"name", "tool_calls", "tool_call_id", "weight"}


def read_prompt(
    value: object, row: Row, notes: Notes, *, where: str = "prompt", source_id: str = ""
) -> Prompt:
    """Return the prompt of a row, `tools` beside it; plain text is one user turn."""
    return prompt_of(read_turns(value, "user", where, notes), row, source_id)


def prompt_of(messages: Messages, row: Row, source_id: str = "") -> Prompt:
    """Return these messages as a prompt; its id is the source's, or else a hash of the content."""
    tools = read_tools(row["tools"]) if row.get("tools") else ()
    return Prompt(id=source_id or content_id("p", messages, tools), messages=messages, tools=tools)


def read_turns(value: object, role: Role, where: str, notes: Notes) -> Messages:
    """Return a list of messages, or plain text as one turn of `role`."""
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    if not isinstance(value, list):
        raise wrong_type(where, value, "text or a list of messages")
    return read_messages(value, where, notes)


def read_messages(value: object, where: str, notes: Notes) -> Messages:
    """Return a list of messages; at least one."""
    found = items(value, where)
    if not found:
        raise RefusedError("no_messages", f"{where} has no messages", "Give one or more.")
    return tuple(read_message(one, f"{where}[{i}]", notes) for i, one in enumerate(found))


def read_message(value: object, where: str, notes: Notes) -> Message:
    """Return one message; a field with null counts as left out."""
    row = mapping(value, where)
    role = row.get("role")
    if role == "developer":
        role = "system"
        notes.append(_odd("developer_role", f"{where} has role 'developer', read as 'system'"))
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(sorted(ROLES))
        raise RefusedError("unknown_role", f"{where} has role {role!r}", f"Use one of: {known}.")
    calls = row.get("tool_calls")
    content = _content(row.get("content"), f"{where}.content", notes, optional=bool(calls))
    if row.keys() <= _PLAIN:
        return Message(role=role, content=content)  # type: ignore[arg-type]  # one of ROLES
    for name in sorted(row.keys() - _KNOWN):
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


def write_messages(messages: Messages) -> list[Row]:
    """Return messages as plain values; fields at their defaults are left out."""
    return [_write_message(message) for message in messages]


def write_tools(prompt: Prompt) -> Row:
    """Return the `tools` field of a row, or nothing when the prompt offers none."""
    return {"tools": list(prompt.tools)} if prompt.tools else {}


def split_common(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Return (prompt, chosen, rejected) of two conversations; their shared start is the prompt.

    Each side keeps its last turn at least, so that nothing is lost when one starts the other.
    """
    most = min(len(chosen), len(rejected)) - 1
    shared = 0
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def one_text(messages: Messages, role: Role, where: str, format_name: str) -> str:
    """Return the text of a single plain turn; raise `RefusedError` when it is more than that."""
    plain = (
        Message(role=role, content=messages[0].content, weight=messages[0].weight)
        if messages
        else None
    )
    if messages != (plain,):
        raise RefusedError(
            "not_held",
            f"{where} is more than one plain {role} turn, and {format_name} holds no more",
            "Write trl, chat or preftune instead.",
        )
    return messages[0].content


def _write_message(message: Message) -> Row:
    row: Row = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        row["name"] = message.name
    if message.weight == 0:
        row["weight"] = 0
    return row


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
