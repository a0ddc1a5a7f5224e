"""Replace personal data in one conversation by `[EMAIL_1]`: equal values, equal numbers.

Only whoever has the log can go back from a placeholder to its value. What is found depends on the
text between placeholders alone, and each text is looked at until nothing is found in it, so
redacting twice changes nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from preftune.errors import DataError
from preftune.prompts.log_ids import is_hashed
from preftune.prompts.recognise import Recogniser, Span
from preftune.prompts.traffic import SEEN
from preftune.types import LogRow, Message, Prompt, make_prompt

_PLACEHOLDER = re.compile(r"\[([A-Z][A-Z_]{0,19})_([0-9]{1,6})\]")
_KIND = re.compile(r"[A-Z][A-Z_]{0,19}")
_JSON_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*', re.DOTALL)
_NUMBERED = re.compile(r"(?<![A-Z_])([A-Z][A-Z_]{0,19})_([0-9]{1,6})(?![0-9])")
_SPEAKER = re.compile(r"NAME_[0-9]+")
_NAME_WORD = re.compile(r"[^\W\d_](?:\w|['’](?=\w))*")
_SHORTEST_NAME = 3  # letters of a name that is replaced wherever it stands
_DIGITS_ONLY = ("CARD", "IBAN", "PHONE")


class Redactor:
    """Redacts the texts of one conversation and counts in `replaced`, by kind, what it replaces."""

    def __init__(
        self, *, patterns: tuple[Recogniser, ...], names: Recogniser, replaced: Counter[str]
    ) -> None:
        self.replaced = replaced
        self._announced = names
        self._recognisers = (*patterns, names, self._known_names)
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()  # highest number given, by kind
        self._names: dict[str, str] = {}  # a word of a name to the whole name
        self._written: set[str] = set()  # the same names as they may stand in running text
        self._known: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        """Whether anything is remembered that a later text of the conversation needs."""
        return bool(self._numbers or self._names)

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return the prompt redacted, under the id of its new content."""
        self._reserve(prompt)
        before = -1
        while before < len(self._names):  # a name announced late stands in earlier turns as well
            before = len(self._names)
            messages = tuple(map(self._message, prompt.messages))  # first: they get number 1
            prompt = make_prompt(
                *messages,
                tools=tuple(self._inside(tool) for tool in prompt.tools),
                tags=tuple(t if t.startswith(SEEN) else self.text(t) for t in prompt.tags),
                source=prompt.source,
                origin=prompt.origin,
                log_rows=tuple(map(self._log_row, prompt.log_rows)),
            )
        return prompt

    def messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the messages of a response redacted, its numbers those of its prompt."""
        self._reserve(messages)
        before = -1
        while before < len(self._names):
            before = len(self._names)
            messages = tuple(map(self._message, messages))
        return messages

    def learn(self, messages: tuple[Message, ...]) -> None:
        """Note the names that are announced in these messages, and replace nothing."""
        for message in messages:
            for span in self._found(message.content, (self._announced,)):
                if span.kind == "NAME":
                    self._note_name(message.content[span.start : span.end])

    def text(self, text: str) -> str:
        """Return a text with every span replaced; everything else is as it was."""
        while spans := self._found(text, self._recognisers):
            parts: list[str] = []
            place = 0
            for span in spans:
                parts += text[place : span.start], self._placeholder(span, text)
                place = span.end
            text = "".join((*parts, text[place:]))
        return text

    def _message(self, message: Message) -> Message:
        content = self._json(message.content) if message.role == "tool" else None
        calls = (
            replace(call, arguments=self._json_or_text(call.arguments))
            for call in message.tool_calls
        )
        return replace(
            message,
            content=self.text(message.content) if content is None else content,
            tool_calls=tuple(calls),
            name=self._speaker(message),
        )

    def _speaker(self, message: Message) -> str | None:
        """Return who speaks; a user's name becomes one that chat APIs take: `NAME_1`."""
        name = message.name
        if not name or message.role != "user" or _SPEAKER.fullmatch(name):
            return name
        return self._placeholder(Span(start=0, end=len(name), kind="NAME"), name).strip("[]")

    def _log_row(self, row: LogRow) -> LogRow:
        """Return where a prompt came from; an id that is hashed is left as it is."""
        return row if is_hashed(row.id) else replace(row, id=self.text(row.id))

    def _json_or_text(self, text: str) -> str:
        redacted = self._json(text)
        return self.text(text) if redacted is None else redacted

    def _json(self, text: str) -> str | None:
        """Return JSON text redacted value by value, still JSON; None when it is not JSON."""
        if not text.lstrip().startswith(("{", "[", '"')):
            return None
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return None
        return _JSON_VALUE.sub(self._json_value, text)

    def _json_value(self, found: re.Match[str]) -> str:
        value = json.loads(found[0]) if found[0].startswith('"') else found[0]
        redacted = self.text(value)
        return found[0] if redacted == value else json.dumps(redacted)

    def _inside(self, value: Any) -> Any:
        """Return plain values, such as a tool's schema, with every text in them redacted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._inside(one) for one in value]
        if isinstance(value, dict):
            return {name: self._inside(one) for name, one in value.items()}
        return value

    def _found(self, text: str, recognisers: tuple[Recogniser, ...]) -> list[Span]:
        """Return the spans of a text in order, none overlapping, none across a placeholder."""
        found: list[Span] = []
        for start, piece in _pieces(text):
            taken = bytearray(len(piece))
            spans: list[Span] = []
            for recognise in recognisers:
                for span in sorted(recognise(piece), key=lambda s: (s.start, -s.end)):
                    _check(span, piece, recognise)
                    if taken.find(1, span.start, span.end) < 0:
                        taken[span.start : span.end] = b"\1" * (span.end - span.start)
                        spans.append(span)
            spans.sort(key=lambda s: s.start)
            found += (replace(s, start=start + s.start, end=start + s.end) for s in spans)
        return found

    def _known_names(self, text: str, /) -> Iterator[Span]:
        """Yield the names that were announced anywhere in this conversation."""
        for match in self._known.finditer(text) if self._known else ():
            yield Span(start=match.start(), end=match.end(), kind="NAME")

    def _placeholder(self, span: Span, text: str) -> str:
        value = text[span.start : span.end]
        if span.kind == "NAME":
            self._note_name(value)
        key = span.kind, self._same(span.kind, value)
        if key not in self._numbers:
            self._last[span.kind] += 1
            self._numbers[key] = self._last[span.kind]
        self.replaced[span.kind] += 1
        return f"[{span.kind}_{self._numbers[key]}]"

    def _same(self, kind: str, value: str) -> str:
        """Return what equal values have in common: case, and in numbers the gaps, don't count."""
        folded = value.casefold()
        if kind in _DIGITS_ONLY:
            return "".join(c for c in folded if c.isalnum())
        plain = " ".join(folded.split())
        return self._names.get(plain, plain) if kind == "NAME" else plain

    def _note_name(self, name: str) -> None:
        """Remember a name, and each of its words, as written and in capitals."""
        plain = " ".join(name.casefold().split())
        whole = self._names.get(plain, plain)
        forms = [f for f in (name, *_NAME_WORD.findall(name)) if len(f) >= _SHORTEST_NAME]
        new = [f for f in forms if f.casefold() not in self._names]
        self._names.setdefault(plain, whole)
        for form in new:
            self._names.setdefault(" ".join(form.casefold().split()), whole)
            self._written |= {form.title(), form.upper()} | ({form} if form[0].isupper() else set())
        if new:
            longest_first = sorted(self._written, key=lambda form: (-len(form), form))
            self._known = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def _reserve(self, value: object) -> None:
        """Pass over the numbers that the placeholders of an earlier run have."""
        for kind, number in _NUMBERED.findall(repr(value)):
            self._last[kind] = max(self._last[kind], int(number))


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield (place, text) of what stands between placeholders."""
    start = 0
    for placeholder in _PLACEHOLDER.finditer(text):
        yield start, text[start : placeholder.start()]
        start = placeholder.end()
    yield start, text[start:]


def _check(span: Span, text: str, recognise: Callable[..., object]) -> None:
    if not 0 <= span.start < span.end <= len(text) or not _KIND.fullmatch(span.kind):
        name = getattr(recognise, "__qualname__", type(recognise).__name__)
        raise DataError(
            f"recogniser {name}: gave characters {span.start} to {span.end} as {span.kind!r} in a "
            f"text of {len(text)}. Give 0 <= start < end <= length, and a kind in capitals."
        )
