"""Lines of a file in bounded memory, and strict JSON: nothing is mended in silence."""

import json
import math
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from preftune.datasets.scanned import RefusedError

MAX_LINE_BYTES = 16 * 2**20
MAX_NESTING = 32
_SKIPPED_AT_ONCE = 2**16


def read_lines(
    file: IO[bytes], *, limit: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (line number from 1, bytes without the line end, whether the line is whole).

    Of a line longer than `limit` only the start is given; the rest is passed over in small pieces.
    """
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        whole = len(line) <= limit or line.endswith(b"\n")
        yield number, line.removesuffix(b"\n"), whole
        while not whole:
            rest = file.readline(_SKIPPED_AT_ONCE)
            whole = not rest or rest.endswith(b"\n")


def parse_json(line: bytes) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises:
        RefusedError: blank, not UTF-8, not JSON, not an object, a name given twice, NaN or
            Infinity, a number too large, half a surrogate pair, nesting deeper than `MAX_NESTING`.
    """
    if not line or line.isspace():
        raise RefusedError("blank_line", "the line is blank", "Delete it.")
    try:
        parsed = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is not UTF-8"
        raise RefusedError("not_utf8", where, "Save the file as UTF-8.") from error
    except RecursionError as error:
        raise _too_deep() from error
    except RefusedError:
        raise
    except ValueError as error:  # JSONDecodeError, or a whole number of thousands of digits
        what = " ".join(str(error).split())
        raise RefusedError(
            "broken_json", f"broken JSON: {what}", "Give one JSON object per line."
        ) from error
    if not isinstance(parsed, dict):
        raise RefusedError("wrong_type", "the line is not a JSON object", "Give one {…} per line.")
    if line.count(b"[") + line.count(b"{") > MAX_NESTING and _depth(parsed) > MAX_NESTING:
        raise _too_deep()
    if b"\\u" in line:
        _refuse_lone_surrogates(parsed)
    return parsed


def _unique(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(fields)
    if len(found) < len(fields):
        names = [name for name, _ in fields]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError("duplicate_key", f"field {twice!r} is given twice", "Keep one of them.")
    return found


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _refuse_constant(digits)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RefusedError(
        "not_finite", f"the number {name[:20]} is not finite", "Give a finite number."
    )


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
)


def _too_deep() -> RefusedError:
    what = f"lists and objects are nested deeper than {MAX_NESTING}"
    return RefusedError("too_deep", what, "Flatten the row.")


def _depth(value: object) -> int:
    """Return how deep lists and objects are nested, without recursion."""
    depth, level = 0, [value]
    while level:
        inside = [v for v in level if isinstance(v, list | dict)]
        depth += bool(inside)
        level = [one for v in inside for one in (v.values() if isinstance(v, dict) else v)]
    return depth


def _refuse_lone_surrogates(parsed: object) -> None:
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = f"half a surrogate pair, \\u{ord(error.object[error.start]):04x}"
        raise RefusedError("lone_surrogate", what, "Write the whole character.") from error
