"""Rows of tokens, and what happens to those that are too long: nothing is cut in silence."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from preftune.engine.layout import HasSequences, stream_length
from preftune.errors import DataError, ModelError
from preftune.files import atomic_open
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.records import encode
from preftune.training.facts import Facts
from preftune.training.settings import LengthSettings
from preftune.training.token_cache import Array, TokenArrays
from preftune.types import Demonstration, PreferencePair

UNLIMITED = 1 << 30  # tokens


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenRows(Sequence[Row], Generic[Row]):
    """Rows whose tokens lie in flat arrays on disk; a row is an object only while it is used.

    Attributes:
        arrays: the tokens, and what the records say beside their text.
        numbers: of each row's record, from 0.
        make: makes a row from the number of its record, its facts and its sequences.
        records: all records, also those whose rows were left out; may be read from their file.
        notes: what a user should know of these rows.
    """

    arrays: TokenArrays
    numbers: Array  # int64 `[N]`
    make: Callable[[int, Any, tuple[TokenSequence, ...]], Row]
    records: Iterable[PreferencePair | Demonstration]
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> Facts:
        """What the records of the rows say beside their text, `[N]`."""
        return self.arrays.facts

    @property
    def data_hash(self) -> str:
        """The SHA-256 of all records, 64 hex digits."""
        return self.arrays.about.data_hash

    @property
    def lengths(self) -> Array:
        """Tokens of prompt and response, `[N K]`, without making a row."""
        spans = self.arrays.spans
        lengths: Array = spans[..., 1] - spans[..., 0] + spans[..., 3] - spans[..., 2]
        return lengths

    @property
    def stream_lengths(self) -> Array:
        """Tokens of each row in the stream, `[N]`: its prompt once, every response."""
        spans = self.arrays.spans
        lengths: Array = (spans[..., 3] - spans[..., 2]).sum(1) + spans[:, 0, 1] - spans[:, 0, 0]
        return lengths

    def digest(self) -> str:
        """Return a SHA-256 over all tokens of these rows and how they make up rows."""
        arrays = (self.arrays.ids, self.arrays.own, self.arrays.spans)
        digest = hashlib.sha256()
        for one in arrays:
            digest.update(f"{one.dtype}{one.shape}".encode())
            digest.update(np.ascontiguousarray(one).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> "TokenRows[Row]": ...

    def __getitem__(self, place: int | slice) -> "Row | TokenRows[Row]":
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        number, said = int(self.numbers[place]), self.arrays.facts[place]
        return self.make(number, said, self.arrays.sequences(place))

    def at(self, places: Array) -> "TokenRows[Row]":
        """Return the rows at these places."""
        spans, facts = self.arrays.spans[places], self.arrays.facts[places]
        arrays = dataclasses.replace(self.arrays, spans=spans, facts=facts)
        return dataclasses.replace(self, arrays=arrays, numbers=self.numbers[places])

    def weighing(self) -> "TokenRows[Row]":
        """Return the rows that weigh something; a step of others would have no gradient."""
        return self.at(np.flatnonzero(self.facts["weight"] > 0))

    def without_start(self, tokens: Array) -> "TokenRows[Row]":
        """Return the rows with the first `tokens[row]` tokens of each prompt left out."""
        spans = self.arrays.spans.copy()
        spans[..., 0] += tokens[:, None]
        return dataclasses.replace(self, arrays=dataclasses.replace(self.arrays, spans=spans))


def fit_length(
    rows: TokenRows[Row],
    *,
    settings: LengthSettings,
    model_limit: int,
    dropped: Path,
) -> TokenRows[Row]:
    """Return the rows that fit, dealing with longer ones as the settings say.

    Args:
        rows: token rows, one per record.
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
            left_out = set(long.tolist())
            for number, record in enumerate(rows.records):
                if number in left_out:
                    file.write(encode(record))
        return rows.at(np.flatnonzero(lengths <= limit))
    return _cut_prompts(rows, np.maximum(lengths - limit, 0), limit)


def left_out(rows: Sized, fitting: Sized, usable: Sized, *, dropped: Path) -> Iterator[str]:
    """Yield what a user should know of the rows that are not used.

    Args:
        rows: all of them.
        fitting: those that are short enough.
        usable: those of them that are used.
        dropped: where the long ones are.
    """
    if len(fitting) < len(rows):
        yield f"{len(rows) - len(fitting)} of {len(rows)} rows were too long: see {dropped}"
    if len(usable) < len(fitting):
        yield f"{len(fitting) - len(usable)} of {len(fitting)} rows weigh 0 and are left out"
    if len(rows) and not len(usable):
        yield f"none of {len(rows)} rows is left: nothing is learnt or reported of them"


def stream_lengths(rows: Sequence[HasSequences]) -> list[int]:
    """Return how many tokens each row takes in the stream: its prompt once, every response."""
    if isinstance(rows, TokenRows):
        return [int(length) for length in rows.stream_lengths]
    return [stream_length(row.sequences) for row in rows]


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
