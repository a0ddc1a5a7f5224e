"""One conversation as its template writes it, with every outsider's control token marked.

A template that only copies contents writes the same around them in every conversation with the
same roles. That is its `Outline`: rendered once, then filled with the contents of each row.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preftune.errors import DataError, ModelError
from preftune.models.plain import PRIVATE_USE, Finder, Follows, Run
from preftune.models.templates import render
from preftune.types import Message, Prompt

PLACES = range(0xF0000, 0xFFFFE)  # private-use characters that stand for the contents of turns
KEPT_OUTLINES = 1024
PLACE = re.compile(f"([{chr(PLACES[0])}-{chr(PLACES[-1])}])")

Part = int | Run
"""A control token's id, or the text between two of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A prompt and a response as parts: all that is left to do is to encode the runs of text."""

    head: tuple[Part, ...]
    tail: tuple[tuple[bool, tuple[Part, ...]], ...]  # whether the model's own, and the parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """A run with places for contents: texts[0], content, texts[1], content, … texts[-1]."""

    texts: tuple[str, ...]
    places: tuple[int, ...]  # numbers of the turns
    follows: Follows

    def fill(self, contents: Sequence[str]) -> Run:
        """Return the run with these contents in its places."""
        text = self.texts[0]
        for place, after in zip(self.places, self.texts[1:], strict=True):
            text += contents[place] + after
        return Run(text=text, follows=self.follows)


class Outline:
    """What a template writes around the contents of all conversations with the same roles."""

    def __init__(self, plan: Plan) -> None:
        self._head = [_gap(part) for part in plan.head]
        self._tail = [(own, [_gap(part) for part in parts]) for own, parts in plan.tail]

    def texts_before(self) -> list[str]:
        """Return the text right before each content, back to the control token before it."""
        parts = [*self._head, *(part for _, parts in self._tail for part in parts)]
        return [text for part in parts if isinstance(part, Gap) for text in part.texts[:-1]]

    def fill(self, contents: Sequence[str], head: tuple[Part, ...] | None) -> Plan:
        """Return the plan of a conversation with these contents; `head` when it is known."""
        return Plan(
            head=_filled(self._head, contents) if head is None else head,
            tail=tuple((own, _filled(parts, contents)) for own, parts in self._tail),
        )


class Outlines:
    """The outlines of one template that only copies contents, one for each row of roles."""

    def __init__(
        self, plan: Callable[[Prompt, tuple[Message, ...]], Plan], control: Finder
    ) -> None:
        self._plan, self._control = plan, control
        self._known: dict[tuple[object, ...], Outline | None] = {}

    def plans(self, rows: Sequence[tuple[Prompt, tuple[Message, ...]]]) -> Iterator[Plan]:
        """Yield the plan of each row, the same that the template itself would give.

        Rows in succession with the same prompt (the same object) share one head. A row with tools,
        control tokens or blanks at the end of a turn is rendered as ever.
        """
        asked, head, simple = None, None, False
        for prompt, response in rows:
            if prompt is not asked:
                head = None
                simple = not prompt.tools and all(map(self._is_simple, prompt.messages))
            outline = None
            if simple and all(map(self._is_simple, response)):
                outline = self._outline(prompt, response)
            if outline is None:
                plan = self._plan(prompt, response)
            else:
                contents = [turn.content for turn in (*prompt.messages, *response)]
                plan = outline.fill(contents, head)
            yield plan
            asked, head = prompt, plan.head

    def _is_simple(self, turn: Message) -> bool:
        content = turn.content
        return (
            bool(content)
            and not (content[0].isspace() or content[-1].isspace())
            and not (turn.tool_calls or turn.tool_call_id or turn.name)
            and self._control.is_free(content)
        )

    def _outline(self, prompt: Prompt, response: tuple[Message, ...]) -> Outline | None:
        turns = (*prompt.messages, *response)
        shape = (len(prompt.messages), *((turn.role, turn.weight) for turn in turns))
        if shape not in self._known:
            if len(self._known) >= KEPT_OUTLINES:
                self._known.clear()
            self._known[shape] = self._new_outline(prompt, response)
        return self._known[shape]

    def _new_outline(self, prompt: Prompt, response: tuple[Message, ...]) -> Outline | None:
        """Return the outline of such rows; None when it doesn't give this very row."""
        turns = (*prompt.messages, *response)
        if len(turns) > len(PLACES):
            return None
        places = tuple(replace(t, content=chr(PLACES[i])) for i, t in enumerate(turns))
        asked = replace(prompt, messages=places[: len(prompt.messages)])
        try:
            outline = Outline(self._plan(asked, places[len(prompt.messages) :]))
        except ModelError:
            return None
        if not all(map(self._control.is_free, outline.texts_before())):
            return None  # the template's text and a content could make a control token together
        contents = [turn.content for turn in turns]
        same = outline.fill(contents, None) == self._plan(prompt, response)
        return outline if same else None


def _gap(part: Part) -> Part | Gap:
    if isinstance(part, int):
        return part
    texts = PLACE.split(part.text)
    if len(texts) == 1:
        return part
    places = tuple(ord(place) - PLACES[0] for place in texts[1::2])
    return Gap(texts=tuple(texts[::2]), places=places, follows=part.follows)


def _filled(parts: Sequence[Part | Gap], contents: Sequence[str]) -> tuple[Part, ...]:
    return tuple(part.fill(contents) if isinstance(part, Gap) else part for part in parts)


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
