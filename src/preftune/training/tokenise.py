"""From records to rows of tokens, once: from memory, or from a file that is never held whole."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from preftune import __version__
from preftune.datasets import dataset_hash, read_demonstrations, read_pairs
from preftune.errors import DataError
from preftune.files import sha256_of
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.progress import Advance, progress
from preftune.training.facts import Said, said_of_demonstration, said_of_pair
from preftune.training.record_file import RecordFile
from preftune.training.rows import DemonstrationRow, PairRow, Row, TokenRows
from preftune.training.token_cache import About, TokenArrays, Writer, found, in_memory, keep
from preftune.types import Demonstration, Message, PreferencePair

CHUNK = 256  # records tokenised together
KEPT_FROM = 1 << 20  # bytes; a smaller file is tokenised again in about a second
KEY_FORMAT = 1  # one more whenever the same file gives other rows than before

R = TypeVar("R", Demonstration, PreferencePair)
Responses = tuple[tuple[Message, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind(Generic[R, Row]):
    """How records of one kind become rows."""

    name: str
    record: type[R]
    read: Callable[[Path], list[R]]  # a whole file, or the error of a file of another kind
    responses: Callable[[R], Responses]
    encode: Callable[[Chat, Sequence[R]], list[tuple[TokenSequence, ...]]]
    fault: Callable[[tuple[TokenSequence, ...]], str]  # why a row teaches nothing; empty if it does
    said: Callable[[R], Said]
    make: Callable[[int, Any, tuple[TokenSequence, ...]], Row]


def pair_rows(records: Sequence[PreferencePair], chat: Chat) -> TokenRows[PairRow]:
    """Return a token row per pair.

    Raises:
        DataError: chosen and rejected become the same tokens: there is nothing to prefer. Or an
            empty response under a template with no token to end it.
    """
    return _rows_of(records, chat, PAIRS)


def read_pair_rows(path: Path, chat: Chat) -> TokenRows[PairRow]:
    """Return a token row per pair of a file, from the cache when it was read before.

    Raises:
        DataError: as `read_pairs` and `pair_rows`.
    """
    return _rows_in(path, chat, PAIRS)


def demonstration_rows(
    records: Sequence[Demonstration], chat: Chat, *, train_on: Literal["last", "all"]
) -> TokenRows[DemonstrationRow]:
    """Return a token row per record.

    Raises:
        DataError: a row with no token of the model's own, which could not train anything, or an
            empty response under a template with no token to end it.
    """
    return _rows_of(records, chat, _demonstrations(train_on))


def read_demonstration_rows(
    path: Path, chat: Chat, *, train_on: Literal["last", "all"]
) -> TokenRows[DemonstrationRow]:
    """Return a token row per demonstration of a file, from the cache when it was read before.

    Raises:
        DataError: as `read_demonstrations` and `demonstration_rows`.
    """
    return _rows_in(path, chat, _demonstrations(train_on))


def _encoded_pairs(chat: Chat, chunk: Sequence[PreferencePair]) -> list[tuple[TokenSequence, ...]]:
    asked = [(pair.prompt, side) for pair in chunk for side in (pair.chosen, pair.rejected)]
    encoded = chat.encode_all(asked)
    return list(zip(encoded[0::2], encoded[1::2], strict=True))


def _fault_of_pair(row: tuple[TokenSequence, ...]) -> str:
    if row[0].response_ids != row[1].response_ids:
        return ""
    return (
        "chosen and rejected are the same tokens. "
        "Remove it, or use a tokenizer that tells them apart."
    )


def _pair_row(number: int, said: Any, found: tuple[TokenSequence, ...]) -> PairRow:
    return PairRow(
        number=number,
        chosen=found[0],
        rejected=found[1],
        weight=float(said["weight"]),
        probability=float(said["probability"]),
        strength=None if said["strength"] < 0 else int(said["strength"]),
    )


PAIRS: Kind[PreferencePair, PairRow] = Kind(
    name="pairs",
    record=PreferencePair,
    read=read_pairs,
    responses=lambda pair: (pair.chosen, pair.rejected),
    encode=_encoded_pairs,
    fault=_fault_of_pair,
    said=said_of_pair,
    make=_pair_row,
)


def _demonstrations(train_on: Literal["last", "all"]) -> Kind[Demonstration, DemonstrationRow]:
    def encode(chat: Chat, chunk: Sequence[Demonstration]) -> list[tuple[TokenSequence, ...]]:
        asked = [(record.prompt, record.response) for record in chunk]
        return [(sequence,) for sequence in chat.encode_all(asked, train_on=train_on)]

    return Kind(
        name=f"demonstrations {train_on}",
        record=Demonstration,
        read=read_demonstrations,
        responses=lambda record: (record.response,),
        encode=encode,
        fault=lambda row: "" if any(row[0].own) else "no assistant turn of weight 1. Remove it.",
        said=said_of_demonstration,
        make=lambda _, said, found: DemonstrationRow(
            sequence=found[0], weight=float(said["weight"])
        ),
    )


def _rows_of(records: Sequence[R], chat: Chat, kind: Kind[R, Row]) -> TokenRows[Row]:
    def make(writer: Writer) -> About:
        with progress("tokenise", len(records)) as advance:
            return _write(_counted(records, advance), chat, kind, writer)

    return _token_rows(in_memory(make), kind, records)


def _rows_in(path: Path, chat: Chat, kind: Kind[R, Row]) -> TokenRows[Row]:
    """Return the rows of a file; the records of a large one are read and forgotten."""
    if not path.is_file() or path.stat().st_size < KEPT_FROM:
        return _rows_of(kind.read(path), chat, kind)
    records = RecordFile.of(path, kind.record, kind.read)

    def make(writer: Writer) -> About:
        with progress("tokenise", 100) as advance:
            return _write(records.each(_to(advance)), chat, kind, writer)

    key = _key(path, chat, kind.name)
    arrays, damage = found(key)
    if arrays is not None:
        return _token_rows(arrays, kind, records)
    arrays, trouble = keep(key, make)
    return _token_rows(arrays, kind, records, notes=(damage, trouble))


def _token_rows(
    arrays: TokenArrays, kind: Kind[R, Row], records: Iterable[R], *, notes: tuple[str, ...] = ()
) -> TokenRows[Row]:
    return TokenRows(
        arrays=arrays,
        numbers=np.arange(len(arrays.spans)),
        make=kind.make,
        records=records,
        notes=(*arrays.about.notes, *filter(None, notes)),
    )


def _write(records: Iterable[R], chat: Chat, kind: Kind[R, Row], writer: Writer) -> About:
    """Write the rows of all records in one pass, a chunk at a time; return what they say."""
    empty: list[str] = []  # rows with an empty response

    def passing() -> Iterator[R]:
        reading, first = iter(records), 1
        while chunk := list(islice(reading, CHUNK)):
            names = [f"row {number} ({one.id})" for number, one in enumerate(chunk, first)]
            empty.extend(_empty(chunk, names, chat, kind))
            rows = kind.encode(chat, chunk)
            for record, row, name in zip(chunk, rows, names, strict=True):
                if fault := kind.fault(row):
                    raise DataError(f"{name}: {fault}")
                writer.add(row, kind.said(record))
            first += len(chunk)
            yield from chunk

    data_hash = dataset_hash(passing())
    return About(data_hash=data_hash, notes=_note_of(empty))


def _empty(
    chunk: Sequence[R], names: Sequence[str], chat: Chat, kind: Kind[R, Row]
) -> Iterator[str]:
    """Yield the names of rows with an empty response.

    Raises:
        DataError: there are some, and the template has no token of its own that ends a turn.
    """
    for record, name in zip(chunk, names, strict=True):
        sides = kind.responses(record)
        if all(any(m.content or m.tool_calls for m in side) for side in sides):
            continue
        if not chat.closes_turns:
            raise DataError(
                f"{name}: a response is empty, and the chat template has no token to end it. "
                "Remove the row, or give a template that ends each turn with a token."
            )
        yield name


def _note_of(empty: Sequence[str]) -> tuple[str, ...]:
    if not empty:
        return ()
    many = f"{len(empty)} rows have an empty response"
    return (f"{many}, only its end is learnt; first: {empty[0]}",)


def _counted(records: Sequence[R], advance: Advance) -> Iterator[R]:
    for record in records:
        yield record
        advance()


def _to(advance: Advance) -> Callable[[int], None]:
    """Return what moves a bar of 100 on to a share."""
    done = 0

    def tell(percent: int) -> None:
        nonlocal done
        if percent > done:
            advance(percent - done)
            done = percent

    return tell


def _key(path: Path, chat: Chat, how: str) -> str | None:
    """Return a hash of all that the rows of a file depend on; None when they may change."""
    if chat.tokens_hash is None:
        return None
    suffixes = "".join(path.suffixes)  # they may decide the format
    parts = (__version__, str(KEY_FORMAT), sha256_of(path), suffixes, chat.tokens_hash, how)
    return hashlib.sha256("|".join((*parts, str(chat.closes_turns))).encode()).hexdigest()
