"""Write records in any known format, the whole file or nothing, and say what it cannot hold."""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from preftune.datasets.contract import examine
from preftune.datasets.formats.csv_table import CSV, csv_sink
from preftune.datasets.formats.parquet import INNER, parquet_sink
from preftune.datasets.formats.row import KIND_NAMES, Format
from preftune.datasets.formats.table import JSON_LINES, unknown_format
from preftune.errors import DataError
from preftune.fields import Row
from preftune.files import atomic_open
from preftune.lines import parse_json
from preftune.types import (
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    UnpairedRow,
)

Conversations = tuple[tuple[Message, ...], ...]
_TURNS = frozenset({"messages", "chosen", "rejected", "response", "responses"})
_WORDS = frozenset({"role", "content", "tool_calls"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """What a format could not hold: name of the field to the number of records that had it."""

    written: int
    counts: Mapping[str, int]


def write_records(path: str | Path, records: Iterable[Record], *, format: str = "preftune") -> Lost:
    """Write records, one after the other as they come, and count what the format leaves out.

    Each row is read back before it counts as written. Where only something beside the turns is
    missing then, such as a strength, that is counted; turns that would change are an error.

    Raises:
        DataError: an unknown format, a kind of record it has no place for, or a record that would
            not be read back as the same turns. Nothing is written then.
    """
    path, written = Path(path), 0
    counts: Counter[str] = Counter()
    ahead = iter(records)
    first = next(ahead, None)
    if first is None:
        raise DataError(f"{path}: no records to write. Give one at least.")
    fmt, sink = _format_of(format, first, path)
    with atomic_open(path) as file, sink(file) as put:
        for record in itertools.chain((first,), ahead):
            row, back = _there_and_back(record, fmt)
            counts.update(lost_fields(record, back))
            put(row)
            written += 1
    return Lost(written=written, counts=dict(counts))


def dataset_hash(records: Iterable[Record]) -> str:
    """Return the SHA-256 of the records in order, as 64 hex digits, whatever file held them."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(type(record).__name__.encode() + _CANONICAL.encode(record) + b"\n")
    return digest.hexdigest()


_CANONICAL = msgspec.json.Encoder(order="sorted")


def lost_fields(record: Record, back: Record) -> set[str]:
    """Return the fields of a record that differ in what was read back.

    Raises:
        DataError: the words of a turn differ, or a number is not finite.
    """
    if record == back:
        return set()
    mine, theirs = _conversations(record), _conversations(back)
    turns = _lost_of_turns(record.id, mine, theirs)
    if mine == theirs and not isinstance(record, Prompt) and _prompt_of(record) != _prompt_of(back):
        turns.add("where the prompt ends")
    return turns | set(_lost_beside_turns(record, back))


def _format_of(
    name: str, first: Record, path: Path
) -> tuple[Format, Callable[[IO[bytes]], AbstractContextManager[Callable[[Row], None]]]]:
    """Return the format and the function that opens a file of it."""
    if name == CSV.name:
        return CSV, csv_sink
    if name == "parquet":
        if path.suffix == ".gz":
            raise DataError(f"{path}: Parquet is packed in itself. Leave .gz out of the name.")
        if type(first) not in INNER:
            raise DataError(
                f"parquet: no place for {KIND_NAMES[type(first)]}. Write preftune instead."
            )
        inner = INNER[type(first)]
        return inner, lambda file: parquet_sink(file, inner)
    if name not in JSON_LINES:
        raise unknown_format(name)
    return JSON_LINES[name], _json_sink


@contextmanager
def _json_sink(file: IO[bytes]) -> Iterator[Callable[[Row], None]]:
    def put(row: Row) -> None:
        file.write(msgspec.json.encode(row) + b"\n")

    yield put


def _there_and_back(record: Record, fmt: Format) -> tuple[Row, Record]:
    """Return the row of a record, and the record that a reader will make of that row."""
    if fmt.kind is not None and not isinstance(record, fmt.kind):
        raise DataError(
            f"{fmt.name}: holds {KIND_NAMES[fmt.kind]}, not {KIND_NAMES[type(record)]}. "
            "Convert them first, or write preftune."
        )
    try:
        row = fmt.write(record)
        back = fmt.read(parse_json(msgspec.json.encode(row)), [])
    except UnicodeEncodeError as error:
        what = f"record {record.id!r}: half a surrogate pair in its text"
        raise DataError(f"{what}. Write the whole character.") from error
    except DataError as error:
        raise DataError(f"record {record.id!r}: {error}") from error
    if fatal := [problem for problem in examine(back) if problem.fatal]:
        raise DataError(f"record {record.id!r}: {fatal[0].what}. {fatal[0].fix}")
    return row, back


def _conversations(record: Record) -> Conversations:
    """Return every conversation of a record, from its first turn to its last."""
    match record:
        case PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected):
            return (prompt.messages + chosen, prompt.messages + rejected)
        case RankedList(prompt=prompt, responses=responses):
            return tuple(prompt.messages + response for response in responses)
        case UnpairedRow(prompt=prompt, response=response):
            return (prompt.messages + response,)
        case Demonstration(prompt=prompt, response=response):
            return (prompt.messages + response,)
        case Prompt(messages=messages):
            return (messages,)
    raise DataError(f"record {record.id!r}: not the same when read back. Give finite numbers.")


def _prompt_of(record: Record) -> tuple[Message, ...]:
    held = (PreferencePair, RankedList, UnpairedRow, Demonstration)
    return record.prompt.messages if isinstance(record, held) else ()


def _lost_of_turns(record_id: str, mine: Conversations, theirs: Conversations) -> set[str]:
    lost: set[str] = set()
    if [len(turns) for turns in mine] != [len(turns) for turns in theirs]:
        raise _changed(record_id)
    pairs = zip(itertools.chain(*mine), itertools.chain(*theirs), strict=True)
    for one, other in ((a, b) for a, b in pairs if a != b):
        differ = {
            f.name
            for f in dataclasses.fields(one)
            if getattr(one, f.name) != getattr(other, f.name)
        }
        if differ & _WORDS:
            raise _changed(record_id)
        lost |= {f"message.{name}" for name in differ}
    return lost


def _changed(record_id: str) -> DataError:
    what = f"record {record_id!r}: its turns would be read back as others, as they hold turn marks"
    return DataError(f"{what}. Write trl, chat or preftune instead.")


def _lost_beside_turns(mine: Any, theirs: Any) -> Iterator[str]:
    for field in dataclasses.fields(mine):
        own, other = getattr(mine, field.name), getattr(theirs, field.name)
        if field.name in _TURNS or own == other:
            continue
        if dataclasses.is_dataclass(own):
            yield from (f"{field.name}.{inner}" for inner in _lost_beside_turns(own, other))
            continue
        if isinstance(own, float) and not math.isfinite(own):
            raise DataError(f"record {mine.id!r}: {field.name} is {own}. Give a finite number.")
        yield field.name
