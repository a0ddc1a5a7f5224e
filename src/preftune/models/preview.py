"""Rows of a file as the tokens a model sees, each marked: own, control token, or context."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from preftune.datasets import scan
from preftune.datasets.read import row_error
from preftune.errors import DataError
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.types import (
    Comparison,
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    UnpairedRow,
)

BLANKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}  # Unicode categories nobody can see


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownToken:
    """One token: its text with blanks and control characters made visible, and whose it is."""

    id: int
    text: str
    whose: Literal["own", "control", "context"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownSequence:
    """One response of one row, with the prompt before it."""

    line: int
    label: str  # "chosen", "rejected", "response 2", …
    prompt_length: int  # tokens
    tokens: tuple[ShownToken, ...]


def preview(file: Path | str, chat: Chat, *, rows: int) -> Iterator[ShownSequence]:
    """Yield every response of the first `rows` rows of a file as a model's tokens.

    Raises:
        DataError: a row that cannot be used, or that holds no prompt.
        ModelError: the chat template refuses a row's turns.
    """
    for row in islice(scan(file).rows, rows):
        if row.record is None or not row.usable:
            raise row_error(file, row)
        for label, prompt, response in _responses(row.record):
            if response:
                sequence = chat.encode(prompt, response)
            else:
                ids = chat.prompt_ids(prompt)
                sequence = TokenSequence(prompt_ids=ids, response_ids=(), own=(False,) * len(ids))
            yield ShownSequence(
                line=row.line,
                label=label,
                prompt_length=len(sequence.prompt_ids),
                tokens=tuple(shown_tokens(sequence, chat)),
            )


def shown_tokens(sequence: TokenSequence, chat: Chat) -> Iterator[ShownToken]:
    """Yield each token of a sequence with its visible text."""
    control = {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}
    for id_, own in zip(sequence.ids, sequence.own, strict=True):
        whose: Literal["own", "control", "context"] = (
            "own" if own else "control" if id_ in control else "context"
        )
        yield ShownToken(id=id_, text=visible(_text_of(id_, chat)), whose=whose)


def visible(text: str) -> str:
    """Return text in which blanks have signs and characters nobody can see are escapes."""
    return "".join(
        BLANKS.get(c) or (f"\\u{{{ord(c):x}}}" if unicodedata.category(c) in HIDDEN else c)
        for c in text
    )


def _text_of(id_: int, chat: Chat) -> str:
    """Return the text of one token; of a piece of a character, the tokenizer's name for it."""
    name = str(chat.tokenizer.convert_ids_to_tokens(id_))
    if "▁" in name:  # SentencePiece: decoding one token alone would lose its blank
        return name.replace("▁", " ")
    text = str(chat.tokenizer.decode([id_], clean_up_tokenization_spaces=False))
    return name if "\ufffd" in text or not text else text


def _responses(record: Record) -> list[tuple[str, Prompt, tuple[Message, ...]]]:
    match record:
        case PreferencePair():
            pair = (("chosen", record.chosen), ("rejected", record.rejected))
            return [(label, record.prompt, response) for label, response in pair]
        case RankedList():
            return [
                (f"rank {r}", record.prompt, m)
                for r, m in zip(record.ranks, record.responses, strict=True)
            ]
        case Comparison():
            return [
                (f"response {i}", record.prompt, r.messages)
                for i, r in enumerate(record.responses, 1)
            ]
        case UnpairedRow():
            return [
                ("desirable" if record.desirable else "undesirable", record.prompt, record.response)
            ]
        case Demonstration():
            return [("response", record.prompt, record.response)]
        case Prompt():
            return [("prompt", record, ())]
        case _:
            raise DataError(
                f"{record.id}: a {type(record).__name__} holds no prompt. "
                "Give a file of pairs, ranked lists, comparisons, chats or prompts."
            )
