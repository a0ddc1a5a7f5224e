"""From records to token rows, once, before the first step; nothing is cut or dropped in silence."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar, overload

import numpy as np

from preftune.datasets import dataset_hash
from preftune.errors import DataError, ModelError
from preftune.files import atomic_open
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.records import encode
from preftune.training.settings import LengthSettings
from preftune.training.token_cache import Array, Rows, TokenArrays, in_memory, kept
from preftune.types import Demonstration, Message, PreferencePair

UNLIMITED = 1 << 30  # tokens
CHUNK = 256  # records tokenised together
KEPT_FROM = 2000  # records; fewer are tokenised again in less than a second


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationRow:
    """One response to imitate."""

    sequence: TokenSequence
    weight: float

    @property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """All token sequences of the row."""
        return (self.sequence,)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """One pair, with all that its raters said about how clear it is."""

    number: int  # of its record, from 0
    chosen: TokenSequence
    rejected: TokenSequence
    weight: float
    probability: float
    strength: int | None

    @property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """All token sequences of the row."""
        return (self.chosen, self.rejected)


Row = TypeVar("Row", DemonstrationRow, PairRow)
Record = TypeVar("Record", Demonstration, PreferencePair)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenRows(Sequence[Row], Generic[Row]):
    """Rows whose tokens lie in flat arrays on disk; a row is an object only while it is used.

    Attributes:
        arrays: the tokens.
        numbers: of each row's record, from 0.
        make: makes a row from the number of its record and its sequences.
        notes: what a user should know of these rows.
    """

    arrays: TokenArrays
    numbers: Array  # int64 `[N]`
    make: Callable[[int, tuple[TokenSequence, ...]], Row]
    notes: tuple[str, ...] = field(default=())

    @property
    def lengths(self) -> Array:
        """Tokens of prompt and response, `[N K]`, without making a row."""
        spans = self.arrays.spans
        lengths: Array = spans[..., 1] - spans[..., 0] + spans[..., 3] - spans[..., 2]
        return lengths

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> "TokenRows[Row]": ...

    def __getitem__(self, place: int | slice) -> "Row | TokenRows[Row]":
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        return self.make(int(self.numbers[place]), self.arrays.sequences(place))

    def at(self, places: Array) -> "TokenRows[Row]":
        """Return the rows at these places."""
        arrays = dataclasses.replace(self.arrays, spans=self.arrays.spans[places])
        return dataclasses.replace(self, arrays=arrays, numbers=self.numbers[places])

    def without_start(self, tokens: Array) -> "TokenRows[Row]":
        """Return the rows with the first `tokens[row]` tokens of each prompt left out."""
        spans = self.arrays.spans.copy()
        spans[..., 0] += tokens[:, None]
        return dataclasses.replace(self, arrays=dataclasses.replace(self.arrays, spans=spans))


def demonstration_rows(
    records: Sequence[Demonstration], chat: Chat, *, train_on: Literal["last", "all"]
) -> TokenRows[DemonstrationRow]:
    """Return a token row per record.

    Raises:
        DataError: a row with no token of the model's own, which could not train anything, or an
            empty response under a template with no token to end it.
    """

    def sequences(chunk: Sequence[Demonstration], first: int) -> Rows:
        asked = [(record.prompt, record.response) for record in chunk]
        encoded = chat.encode_all(asked, train_on=train_on)
        for number, (record, sequence) in enumerate(zip(chunk, encoded, strict=True), first):
            if not any(sequence.own):
                raise DataError(
                    f"row {number + 1} ({record.id}): no assistant turn of weight 1. Remove it."
                )
            yield (sequence,)

    def row(number: int, found: tuple[TokenSequence, ...]) -> DemonstrationRow:
        return DemonstrationRow(sequence=found[0], weight=records[number].weight)

    responses = [(record.response,) for record in records]
    return _token_rows(records, responses, chat, sequences, row, how=f"demonstrations {train_on}")


def pair_rows(records: Sequence[PreferencePair], chat: Chat) -> TokenRows[PairRow]:
    """Return a token row per pair.

    Raises:
        DataError: chosen and rejected become the same tokens: there is nothing to prefer. Or an
            empty response under a template with no token to end it.
    """

    def sequences(chunk: Sequence[PreferencePair], first: int) -> Rows:
        asked = [(pair.prompt, side) for pair in chunk for side in (pair.chosen, pair.rejected)]
        encoded = chat.encode_all(asked)
        sides = zip(chunk, encoded[0::2], encoded[1::2], strict=True)
        for number, (record, chosen, rejected) in enumerate(sides, first):
            if chosen.response_ids == rejected.response_ids:
                raise DataError(
                    f"row {number + 1} ({record.id}): chosen and rejected are the same tokens. "
                    "Remove it, or use a tokenizer that tells them apart."
                )
            yield (chosen, rejected)

    def row(number: int, found: tuple[TokenSequence, ...]) -> PairRow:
        record = records[number]
        return PairRow(
            number=number,
            chosen=found[0],
            rejected=found[1],
            weight=record.weight,
            probability=record.probability,
            strength=record.strength,
        )

    responses = [(record.chosen, record.rejected) for record in records]
    return _token_rows(records, responses, chat, sequences, row, how="pairs")


def fit_length(
    rows: TokenRows[Row],
    records: Sequence[Demonstration] | Sequence[PreferencePair],
    *,
    settings: LengthSettings,
    model_limit: int,
    dropped: Path,
) -> TokenRows[Row]:
    """Return the rows that fit, dealing with longer ones as the settings say.

    Args:
        rows: token rows, one per record.
        records: where the rows came from; dropped ones are written to `dropped`.
        settings: the limit in tokens and what to do above it.
        model_limit: the most tokens the model can hold.
        dropped: file for the records left out.

    Raises:
        DataError: rows are too long and the choice is to stop, or a response alone is too long.
        ModelError: the limit asked for is more than the model can hold.
    """
    if settings.max_length > model_limit:
        raise ModelError(
            f"max_length is {settings.max_length}, the model holds {model_limit}. Lower it."
        )
    limit = settings.max_length or model_limit
    lengths = rows.lengths.max(axis=1, initial=0)
    long = np.flatnonzero(lengths > limit)
    if not len(long):
        return rows
    if settings.on_long == "stop":
        raise DataError(
            f"{len(long)} of {len(rows)} rows are longer than {limit} tokens (longest "
            f"{lengths.max()}; first: row {long[0] + 1}). "
            "Raise --max-length, or choose --on-long drop or cut-prompt."
        )
    if settings.on_long == "drop":
        with atomic_open(dropped) as file:
            for number in long.tolist():
                file.write(encode(records[number]))
        return rows.at(np.flatnonzero(lengths <= limit))
    return _cut_prompts(rows, np.maximum(lengths - limit, 0), limit)


def model_limit(chat: Chat) -> int:
    """Return how many tokens the model of a chat can hold; without a word of its config, all."""
    return chat.max_length or UNLIMITED


def _cut_prompts(rows: TokenRows[Row], excess: Array, limit: int) -> TokenRows[Row]:
    """Return the rows with the start of each prompt cut, the same for all its responses."""
    spans = rows.arrays.spans
    prompts = (spans[..., 1] - spans[..., 0]).min(axis=1)
    hopeless = np.flatnonzero((excess > 0) & (excess >= prompts))
    if len(hopeless):
        raise DataError(
            f"row {hopeless[0] + 1}: a response alone is longer than {limit} tokens and is never "
            "cut. Raise --max-length, or use --on-long drop."
        )
    return rows.without_start(excess)


def _token_rows(
    records: Sequence[Record],
    responses: Sequence[tuple[tuple[Message, ...], ...]],
    chat: Chat,
    sequences: Callable[[Sequence[Record], int], Rows],
    row: Callable[[int, tuple[TokenSequence, ...]], Row],
    *,
    how: str,
) -> TokenRows[Row]:
    """Return the rows of all records, from the cache when they are many and were made before."""

    def tokenised() -> Iterator[tuple[TokenSequence, ...]]:
        with progress("tokenise", len(records)) as advance:
            for first in range(0, len(records), CHUNK):
                chunk = records[first : first + CHUNK]
                yield from sequences(chunk, first)
                advance(len(chunk))

    notes = _empty_responses(records, responses, chat)
    if len(records) < KEPT_FROM:
        arrays = in_memory(tokenised())
    else:
        arrays, note = kept(_key(records, chat, how), tokenised)
        notes += (note,) if note else ()
    numbers = np.arange(len(records))
    return TokenRows(arrays=arrays, numbers=numbers, make=row, notes=notes)


def _empty_responses(
    records: Sequence[Record],
    responses: Sequence[tuple[tuple[Message, ...], ...]],
    chat: Chat,
) -> tuple[str, ...]:
    """Return a note that counts empty responses, if any.

    Raises:
        DataError: there are some, and the template has no token of its own that ends a turn.
    """
    empty = [
        number
        for number, sides in enumerate(responses)
        if not all(any(m.content or m.tool_calls for m in side) for side in sides)
    ]
    if not empty:
        return ()
    first = f"row {empty[0] + 1} ({records[empty[0]].id})"
    if not chat.closes_turns:
        raise DataError(
            f"{first}: a response is empty, and the chat template has no token to end it. "
            "Remove the row, or give a template that ends each turn with a token."
        )
    return (f"{len(empty)} rows have an empty response, only its end is learnt; first: {first}",)


def _key(records: Sequence[Record], chat: Chat, how: str) -> str | None:
    if chat.tokens_hash is None:
        return None
    return hashlib.sha256(f"{dataset_hash(records)}|{chat.tokens_hash}|{how}".encode()).hexdigest()
