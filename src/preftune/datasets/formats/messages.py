"""Prompts and turns of a row, read and written as the field writes them."""

from preftune.datasets.scanned import RefusedError
from preftune.fields import Row, wrong_type
from preftune.messages import Messages, Notes, read_messages, read_tools
from preftune.types import Message, Prompt, Role, content_id


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
