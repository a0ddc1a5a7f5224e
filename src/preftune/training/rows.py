"""From records to token rows, once, before the first step; nothing is cut or dropped in silence."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from preftune.errors import DataError, ModelError
from preftune.files import atomic_open
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.records import encode
from preftune.training.settings import LengthSettings
from preftune.types import Demonstration, PreferencePair

UNLIMITED = 1 << 30  # tokens
CHUNK = 256  # records between two moves of the progress bar


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


def demonstration_rows(
    records: Sequence[Demonstration], chat: Chat, *, train_on: Literal["last", "all"]
) -> list[DemonstrationRow]:
    """Return a token row per record.

    Raises:
        DataError: a row with no token of the model's own, which could not train anything.
    """
    rows = []
    with progress("tokenise", len(records)) as advance:
        for number, record in enumerate(records):
            sequence = chat.encode(record.prompt, record.response, train_on=train_on)
            if not any(sequence.own):
                raise DataError(
                    f"row {number + 1} ({record.id}): no assistant turn of weight 1. Remove it."
                )
            rows.append(DemonstrationRow(sequence=sequence, weight=record.weight))
            if number % CHUNK == CHUNK - 1:
                advance(CHUNK)
    return rows


def pair_rows(records: Sequence[PreferencePair], chat: Chat) -> list[PairRow]:
    """Return a token row per pair.

    Raises:
        DataError: chosen and rejected become the same tokens: there is nothing to prefer.
    """
    rows = []
    with progress("tokenise", len(records)) as advance:
        for number, record in enumerate(records):
            chosen = chat.encode(record.prompt, record.chosen)
            rejected = chat.encode(record.prompt, record.rejected)
            if chosen.ids == rejected.ids:
                raise DataError(
                    f"row {number + 1} ({record.id}): chosen and rejected are the same tokens. "
                    "Remove it, or use a tokenizer that tells them apart."
                )
            rows.append(
                PairRow(
                    number=number,
                    chosen=chosen,
                    rejected=rejected,
                    weight=record.weight,
                    probability=record.probability,
                    strength=record.strength,
                )
            )
            if number % CHUNK == CHUNK - 1:
                advance(CHUNK)
    return rows


def fit_length(
    rows: Sequence[Row],
    records: Sequence[Demonstration] | Sequence[PreferencePair],
    *,
    settings: LengthSettings,
    model_limit: int,
    dropped: Path,
) -> list[Row]:
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
    long = [number for number, row in enumerate(rows) if _length(row) > limit]
    if not long:
        return list(rows)
    if settings.on_long == "stop":
        raise DataError(
            f"{len(long)} of {len(rows)} rows are longer than {limit} tokens (longest "
            f"{max(_length(row) for row in rows)}; first: row {long[0] + 1}). "
            "Raise --max-length, or choose --on-long drop or cut-prompt."
        )
    if settings.on_long == "drop":
        with atomic_open(dropped) as file:
            for number in long:
                file.write(encode(records[number]))
        left_out = set(long)
        return [row for number, row in enumerate(rows) if number not in left_out]
    return [_cut_prompt(row, limit, number) for number, row in enumerate(rows)]


def model_limit(chat: Chat) -> int:
    """Return how many tokens the model of a chat can hold; without a word of its config, all."""
    return chat.max_length or UNLIMITED


def _length(row: DemonstrationRow | PairRow) -> int:
    return max(len(sequence) for sequence in row.sequences)


def _cut_prompt(row: Row, limit: int, number: int) -> Row:
    """Return the row with the start of its prompt cut, the same for all its responses."""
    excess = _length(row) - limit
    if excess <= 0:
        return row
    if excess >= len(row.sequences[0].prompt_ids):
        raise DataError(
            f"row {number + 1}: a response alone is longer than {limit} tokens and is never cut. "
            "Raise --max-length, or use --on-long drop."
        )
    if isinstance(row, DemonstrationRow):
        return dataclasses.replace(row, sequence=_without_start(row.sequence, excess))
    return dataclasses.replace(
        row,
        chosen=_without_start(row.chosen, excess),
        rejected=_without_start(row.rejected, excess),
    )


def _without_start(sequence: TokenSequence, tokens: int) -> TokenSequence:
    return dataclasses.replace(
        sequence, prompt_ids=sequence.prompt_ids[tokens:], own=sequence.own[tokens:]
    )
