"""One conversation as its template writes it, with every outsider's control token marked."""

import json
from dataclasses import dataclass
from typing import Any

from preftune.errors import DataError, ModelError
from preftune.models.plain import PRIVATE_USE, Finder
from preftune.models.templates import render
from preftune.types import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What is marked in whose words."""

    everyone: Finder
    assistant: Finder


class Conversation:
    """Renders the beginnings of one conversation.

    `mark` is a private-use character that nobody wrote: it stands before each place where
    somebody's text holds a control token, and is taken out before the text becomes ids.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        template: str,
        messages: tuple[Message, ...],
        tools: tuple[dict[str, Any], ...],
        marks: Marks,
        where: str,
    ) -> None:
        self.messages, self.where = messages, where
        self._tokenizer, self._template = tokenizer, template
        raw = [_as_dict(message) for message in messages]
        self.mark = _unused([*raw, *tools, template])
        self._turns = [
            _marked(
                turn, marks.assistant if turn["role"] == "assistant" else marks.everyone, self.mark
            )
            for turn in raw
        ]
        self._written: dict[tuple[int, bool], str] = {}
        self._tools = [_marked(tool, marks.everyone, self.mark) for tool in tools]

    def before(self, i: int) -> str:
        """Return the text of the turns before turn `i`, with the opening of an assistant turn."""
        return self._render(i, header=True)

    def after(self, i: int) -> str:
        """Return the text of the turns through turn `i`."""
        return self._render(i + 1, header=False)

    def after_common(self, start: str, whole: str) -> str:
        """Return `whole` after `start`.

        Raises:
            ModelError: `whole` starts in another way, so that ids made from `start` don't fit it.
        """
        if not whole.startswith(start):
            same = next(
                i for i, (a, b) in enumerate(zip(start, whole + "\0", strict=False)) if a != b
            )
            raise ModelError(
                f"{self.where}: the chat template writes {start[same:][:40]!r} and later, with "
                f"more turns, {whole[same:][:40]!r} in its place. Train on the last turn only, or "
                "give a template that doesn't rewrite earlier turns."
            )
        return whole[len(start) :]

    def _render(self, turns: int, *, header: bool) -> str:
        if (turns, header) not in self._written:
            self._written[turns, header] = render(
                self._tokenizer,
                self._template,
                self._turns[:turns],
                tools=self._tools,
                header=header,
                where=self.where,
            )
        return self._written[turns, header]


def _as_dict(message: Message) -> dict[str, Any]:
    """Return the message in the form that chat templates read."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name}
    return turn | {key: value for key, value in optional.items() if value is not None}


def _arguments(text: str) -> Any:
    """Return the arguments as an object, which templates expect; text that is none stays text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, dict) else text


def _marked(value: Any, finder: Finder, mark: str) -> Any:
    if isinstance(value, str):
        return finder.mark(value, mark)
    if isinstance(value, dict):
        return {_marked(k, finder, mark): _marked(v, finder, mark) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item, finder, mark) for item in value]
    return value


def _unused(values: list[Any]) -> str:
    """Return a private-use character that occurs nowhere in the values."""
    written = json.dumps(values, ensure_ascii=False, default=str)
    for code in PRIVATE_USE:
        if chr(code) not in written:
            return chr(code)
    raise DataError("conversation: uses every private-use character. Remove one of them.")
