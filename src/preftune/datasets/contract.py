"""What a record must have to be of use, whatever format it came in."""

from collections.abc import Iterator

from preftune.datasets.scanned import Problem
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    Response,
    UnpairedRow,
)

Messages = tuple[Message, ...]


def examine(record: Record) -> Iterator[Problem]:
    """Yield what is wrong or odd with the turns of a record.

    Fatal: an answer to learn from that is empty or ends in no assistant turn, and a prompt without
    turns. Odd: a blank turn in a prompt, a sampled response without words, a response listed twice.
    """
    if not isinstance(record, Judgment | Response):
        yield from _prompt(record if isinstance(record, Prompt) else record.prompt)
    for name, messages in _answers(record):
        yield from _answer(name, messages)
    if isinstance(record, RankedList) and len(set(record.responses)) < len(record.responses):
        yield _odd("repeated_response", "a response stands twice in the list")
    for response in _sampled(record):
        if not any(_has_words(m) for m in response.messages):
            yield _odd("empty_response", f"response {response.id} has no words")


def _answers(record: Record) -> list[tuple[str, Messages]]:
    """Return what a model would learn from, under the names of the fields."""
    match record:
        case PreferencePair():
            return [("chosen", record.chosen), ("rejected", record.rejected)]
        case RankedList():
            return [(f"responses[{i}]", r) for i, r in enumerate(record.responses)]
        case UnpairedRow() | Demonstration():
            return [("the response", record.response)]
        case _:
            return []


def _sampled(record: Record) -> tuple[Response, ...]:
    if isinstance(record, Response):
        return (record,)
    return record.responses if isinstance(record, Comparison) else ()


def _answer(name: str, messages: Messages) -> Iterator[Problem]:
    if not messages or messages[-1].role != "assistant":
        what, fix = (
            f"{name} does not end in an assistant turn",
            "End it in the answer of the model.",
        )
        yield Problem(kind="no_assistant_turn", what=what, fix=fix)
    elif any(m.role == "assistant" and not _has_words(m) for m in messages):
        fix = "Fill it in, or leave the row out."
        yield Problem(kind="empty_response", what=f"{name} has an empty assistant turn", fix=fix)


def _prompt(prompt: Prompt) -> Iterator[Problem]:
    if not prompt.messages:
        yield Problem(
            kind="empty_prompt", what="the prompt has no turns", fix="Say what was asked."
        )
    elif not all(_has_words(m) or m.role == "tool" for m in prompt.messages):
        yield _odd("empty_turn", "a turn of the prompt is blank")


def _has_words(message: Message) -> bool:
    return bool(message.tool_calls or message.content.strip())


def _odd(kind: str, what: str) -> Problem:
    return Problem(kind=kind, what=what, fix="Nothing to do if that is meant.", fatal=False)
