"""Parquet: the rows of the JSON Lines formats in a columnar file; needs the extra `parquet`.

Reading takes any of the formats; writing gives TRL's, one kind of record per file. Tools stand as
JSON text, since each has a schema of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from preftune.datasets.formats.columns import COLUMNS
from preftune.datasets.formats.ranked import RANKED
from preftune.datasets.formats.row import Format
from preftune.datasets.formats.trl import TRL, TRL_COMPLETION, TRL_PROMPT, TRL_UNPAIRED
from preftune.errors import DataError, MissingExtraError
from preftune.fields import Row

ROWS_AT_ONCE = 1_000
INNER = {fmt.kind: fmt for fmt in (TRL, TRL_UNPAIRED, TRL_COMPLETION, TRL_PROMPT, RANKED)}
"""The format whose rows a Parquet file of each kind of record holds."""

_MESSAGES = ("prompt", "chosen", "rejected", "completion")


@contextmanager
def parquet_sink(file: IO[bytes], inner: Format) -> Iterator[Callable[[Row], None]]:
    """Yield a function that writes one row of the inner format."""
    pa, pq = _arrow()
    schema = _schema(pa, inner)
    waiting: list[Row] = []
    with pq.ParquetWriter(file, schema) as table:

        def flush() -> None:
            table.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def put(row: Row) -> None:
            tools = {"tools": msgspec.json.encode(row["tools"]).decode()} if "tools" in row else {}
            waiting.append({**row, **tools})
            if len(waiting) == ROWS_AT_ONCE:
                flush()

        yield put
        flush()


def read_parquet(path: Path) -> tuple[int, Iterator[Row]]:
    """Return the number of rows and the rows one after the other; null fields are left out.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: not a Parquet file, or a damaged one.
    """
    pa, pq = _arrow()
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error

    def rows() -> Iterator[Row]:
        try:
            with file:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                    for row in batch.to_pylist():
                        yield _without_nulls(row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from error

    return file.metadata.num_rows, rows()


def _damaged(path: Path, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(f"{path}: not a readable Parquet file ({what}). Write it again.")


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pa, pq


def _schema(pa: Any, inner: Format) -> Any:
    function = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    call = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", function)])
    texts = [(name, pa.string()) for name in ("role", "content", "name", "tool_call_id")]
    message = pa.struct([*texts, ("tool_calls", pa.list_(call)), ("weight", pa.int8())])
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    types = {name: plain[kind] for name, kind in COLUMNS.items()}
    types |= dict.fromkeys(_MESSAGES, pa.list_(message))
    types |= {"responses": pa.list_(pa.list_(message)), "label": pa.bool_(), "tools": pa.string()}
    types |= {"ranks": pa.list_(pa.int64()), "scores": pa.list_(pa.float64())}
    return pa.schema([(name, kind) for name, kind in types.items() if name in inner.known])


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(v) for name, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
