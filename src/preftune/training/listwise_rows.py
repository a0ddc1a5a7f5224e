"""Token rows of what is not a pair: ranked lists and single responses; nothing cut in silence."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from preftune.datasets import convert, read_records
from preftune.engine.layout import HasSequences
from preftune.errors import DataError, ModelError
from preftune.files import atomic_open
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.records import encode
from preftune.training.rows import left_out, model_limit
from preftune.training.run import Run
from preftune.training.settings import LengthSettings
from preftune.types import Message, PreferencePair, Prompt, RankedList, Record, UnpairedRow

A = TypeVar("A", bound=Record)
B = TypeVar("B", bound=Record)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedRow:
    """The responses of one ranked list, best first; equal ranks are ties."""

    number: int  # of its record, from 0
    sequences: tuple[TokenSequence, ...]
    ranks: tuple[int, ...]
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleRow:
    """One response, marked desirable or not."""

    number: int  # of its record, from 0
    sequences: tuple[TokenSequence, ...]  # just one
    desirable: bool
    weight: float


Row = TypeVar("Row", RankedRow, SingleRow)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """Every two responses of one list, M in all: `first` is better than `second`, or tied."""

    row: Tensor  # int64 [M]
    first: Tensor  # [M]
    second: Tensor  # [M]
    tied: Tensor  # bool [M]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """One number per response of B ranked lists, best first; `mask` is True on real ones."""

    values: Tensor  # [B K]
    ranks: Tensor  # int64 [B K]
    mask: Tensor  # bool [B K]

    def comparisons(self) -> Comparisons:
        """Return every two responses of one list, list after list."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        row, first, second = both.triu(diagonal=1).nonzero(as_tuple=True)
        return Comparisons(
            row=row,
            first=self.values[row, first],
            second=self.values[row, second],
            tied=self.ranks[row, first] == self.ranks[row, second],
        )


def in_lists(values: Tensor, ranks: Sequence[tuple[int, ...]]) -> Lists:
    """Return the numbers of all responses, given list after list, one list per row.

    Args:
        values: one number per response, `[N]`.
        ranks: of each list; their lengths add up to N.
    """
    lengths = torch.tensor([len(places) for places in ranks], device=values.device)
    mask = torch.arange(int(lengths.max()), device=values.device)[None] < lengths[:, None]
    flat = torch.tensor([place for places in ranks for place in places], device=values.device)
    return Lists(
        values=torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(
            mask, values
        ),
        ranks=torch.zeros(mask.shape, dtype=torch.long, device=values.device).masked_scatter(
            mask, flat
        ),
        mask=mask,
    )


def read_either(path: Path, first: type[A], second: type[B]) -> list[A] | list[B]:
    """Return the records of a file that holds one of two kinds.

    Raises:
        DataError: it holds anything else, or both.
    """
    records = read_records(path).records
    if all(isinstance(record, first) for record in records):
        return cast(list[A], records)
    if all(isinstance(record, second) for record in records):
        return cast(list[B], records)
    kinds = ", ".join(sorted({type(record).__name__ for record in records}))
    raise DataError(
        f"{path}: holds {kinds}. Give a file of {first.__name__} or of {second.__name__} alone; "
        "preftune data convert makes one of the other."
    )


def read_held_out(path: Path | None) -> list[PreferencePair]:
    """Return the pairs of a held-out file, one of each ranked list; none without a file.

    Raises:
        DataError: the file gives no pair.
    """
    if path is None:
        return []
    pairs = one_pair_each(read_either(path, PreferencePair, RankedList))
    if not pairs:
        raise DataError(f"{path}: no list puts a response above another. Give other lists.")
    return pairs


def one_pair_each(records: Sequence[PreferencePair] | Sequence[RankedList]) -> list[PreferencePair]:
    """Return pairs as they are, and of each ranked list one pair, drawn by the list's id.

    One pair per list, so that an interval over pairs is one over prompts. Tied and equal responses
    make no pair.
    """
    drawn: list[PreferencePair] = []
    for record in records:
        found = [p for p in convert([record], "pairs", Counter()) if isinstance(p, PreferencePair)]
        drawn += [random.Random(record.id).choice(found)] if found else []
    return drawn


def ranked_rows(records: Sequence[RankedList], chat: Chat) -> list[RankedRow]:
    """Return a token row per ranked list.

    Raises:
        DataError: a response with no token of the model's own, or two responses ranked apart that
            become the same tokens.
    """

    def row(number: int, record: RankedList) -> RankedRow:
        where = f"row {number + 1} ({record.id})"
        sequences = _encoded(chat, record.prompt, record.responses, where)
        seen: dict[tuple[int, ...], int] = {}
        for sequence, rank in zip(sequences, record.ranks, strict=True):
            if seen.setdefault(sequence.ids, rank) != rank:
                raise DataError(
                    f"{where}: two responses ranked apart are the same tokens. "
                    "Remove one, or use a tokenizer that tells them apart."
                )
        return RankedRow(
            number=number, sequences=sequences, ranks=record.ranks, weight=record.weight
        )

    return _tokenised(records, row)


def single_rows(records: Sequence[UnpairedRow], chat: Chat) -> list[SingleRow]:
    """Return a token row per response.

    Raises:
        DataError: a row with no token of the model's own, which could not train anything.
    """

    def row(number: int, record: UnpairedRow) -> SingleRow:
        where = f"row {number + 1} ({record.id})"
        return SingleRow(
            number=number,
            sequences=_encoded(chat, record.prompt, (record.response,), where),
            desirable=record.desirable,
            weight=record.weight,
        )

    return _tokenised(records, row)


def _encoded(
    chat: Chat, prompt: Prompt, responses: Sequence[tuple[Message, ...]], where: str
) -> tuple[TokenSequence, ...]:
    sequences = tuple(chat.encode(prompt, response) for response in responses)
    if not all(any(sequence.own) for sequence in sequences):
        raise DataError(f"{where}: no assistant turn of weight 1. Remove it.")
    return sequences


def _tokenised(records: Sequence[A], row: Callable[[int, A], Row]) -> list[Row]:
    rows = []
    with progress("tokenise", len(records)) as advance:
        for number, record in enumerate(records):
            rows.append(row(number, record))
            advance()
    return rows


def rows_that_fit(
    run: Run,
    rows: Sequence[Row],
    records: Sequence[RankedList] | Sequence[UnpairedRow],
    settings: LengthSettings,
    chat: Chat,
) -> list[Row]:
    """Return the rows that weigh something, dealing with long ones as the settings say.

    Dropped ones go to a file in the run's folder; what is left out is told.

    Raises:
        DataError: rows are too long and the choice is to stop, or a response alone is too long.
        ModelError: the limit asked for is more than the model can hold.
    """
    if settings.max_length > model_limit(chat):
        raise ModelError(
            f"max_length is {settings.max_length}, the model holds {model_limit(chat)}. Lower it."
        )
    limit = settings.max_length or model_limit(chat)
    long = [number for number, row in enumerate(rows) if longest(row) > limit]
    fitting, dropped = list(rows), run.folder / "dropped_train.jsonl"
    if long and settings.on_long == "stop":
        raise DataError(
            f"{len(long)} of {len(rows)} rows are longer than {limit} tokens (longest "
            f"{max(longest(row) for row in rows)}; first: row {long[0] + 1}). "
            "Raise --max-length, or choose --on-long drop or cut-prompt."
        )
    if long and settings.on_long == "cut-prompt":
        fitting = [_prompt_cut(row, limit) for row in rows]
    elif long:
        with atomic_open(dropped) as file:
            for number in long:
                file.write(encode(records[number]))
        fitting = [row for row in rows if longest(row) <= limit]
    usable = [row for row in fitting if row.weight > 0]
    for told in left_out(rows, fitting, usable, dropped=dropped):
        run.warn(told)
    return usable


def longest(row: HasSequences) -> int:
    """Return how many tokens the longest sequence of a row has."""
    return max(len(sequence) for sequence in row.sequences)


def without_start(sequence: TokenSequence, tokens: int) -> TokenSequence:
    """Return the sequence with that many tokens cut from the start of its prompt."""
    return dataclasses.replace(
        sequence, prompt_ids=sequence.prompt_ids[tokens:], own=sequence.own[tokens:]
    )


def _prompt_cut(row: Row, limit: int) -> Row:
    """Return the row with the start of its prompt cut, the same for all its responses."""
    excess = longest(row) - limit
    if excess <= 0:
        return row
    if excess >= len(row.sequences[0].prompt_ids):
        raise DataError(
            f"row {row.number + 1}: a response alone is longer than {limit} tokens and is never "
            "cut. Raise --max-length, or use --on-long drop."
        )
    return dataclasses.replace(
        row, sequences=tuple(without_start(sequence, excess) for sequence in row.sequences)
    )
