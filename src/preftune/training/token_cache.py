"""The tokens of a data set in flat arrays: mapped from disk, and kept for later runs.

    ids.i32     every id, prompt after response; a prompt that responses share lies there once
    own.u8      1 where the token is the model's own
    spans.i64   per response: start and end of its prompt, start and end of the response
    header.json key, sizes and SHA-256 of the three

An entry is written whole or not at all and is read only when every byte of it is right, so two
processes may make the same one at the same time. `PREFTUNE_CACHE` moves the cache or switches it
off (`preftune.cache`); what was used longest ago goes first when it holds more than 5 GB.
"""

import io
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from preftune.cache import cache_folder, forget_oldest
from preftune.files import atomic_folder, read_json, sha256_of, write_json
from preftune.models.tokens import TokenSequence

LIMIT_BYTES = 5 << 30
FILES = {"ids.i32": np.int32, "own.u8": np.bool_, "spans.i64": np.int64}
HEADER = "header.json"

Rows = Iterable[tuple[TokenSequence, ...]]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenArrays:
    """All token sequences of N rows with K responses each."""

    ids: Array  # int32 `[tokens]`
    own: Array  # bool `[tokens]`
    spans: Array  # int64 `[N K 4]`: prompt from, prompt to, response from, response to

    def sequences(self, row: int) -> tuple[TokenSequence, ...]:
        """Return the sequences of one row."""
        return tuple(self._sequence(*span) for span in self.spans[row].tolist())

    def _sequence(self, a: int, b: int, c: int, d: int) -> TokenSequence:
        own = (*self.own[a:b].tolist(), *self.own[c:d].tolist())
        return TokenSequence(
            prompt_ids=tuple(self.ids[a:b].tolist()),
            response_ids=tuple(self.ids[c:d].tolist()),
            own=own,
        )


def in_memory(rows: Rows) -> TokenArrays:
    """Return the arrays of a small data set, without a file."""
    files = [io.BytesIO() for _ in FILES]
    responses = _write(rows, *files)
    arrays: list[Array] = [
        np.frombuffer(file.getvalue(), dtype=kind)
        for file, kind in zip(files, FILES.values(), strict=True)
    ]
    return _arranged(arrays, responses)


def kept(key: str | None, rows: Callable[[], Rows]) -> tuple[TokenArrays, str]:
    """Return the arrays of a data set, from the cache when it holds them, and what went wrong.

    Args:
        key: a hash of all that the tokens depend on; None keeps nothing.
        rows: makes the rows, called when the cache doesn't hold them.
    """
    folder = cache_folder("tokens")
    if folder is None or key is None:
        return _unkept(rows()), ""
    entry, note = folder / key, ""
    if entry.exists():
        found = _read(entry, key)
        if found is not None:
            with suppress(OSError):  # a cache that can only be read is of use all the same
                os.utime(entry)
            return found, ""
        note = f"{entry}: was damaged, tokenised again"
        shutil.rmtree(entry, ignore_errors=True)
    made: TokenArrays | None = None
    try:
        with atomic_folder(folder / f"{key}-{os.getpid()}") as writing:
            made = _make(writing, rows(), key)
        _take_name(folder / f"{key}-{os.getpid()}", entry)
    except OSError as error:
        note = f"{folder}: tokens are not kept: {error.strerror}. Set PREFTUNE_CACHE."
    with suppress(OSError):  # another process may be deleting the same entries
        forget_oldest(folder, limit_bytes=LIMIT_BYTES)
    return (_unkept(rows()) if made is None else made), note


def _take_name(made: Path, entry: Path) -> None:
    """Give a folder its name, unless another process was quicker: then its folder stays."""
    try:
        made.rename(entry)
    except OSError:
        if not entry.exists():
            raise
        shutil.rmtree(made)


def _unkept(rows: Rows) -> TokenArrays:
    """Map the arrays from files whose names are gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="preftune-tokens-") as name:
        return _make(Path(name), rows, key="")


def _make(folder: Path, rows: Rows, key: str) -> TokenArrays:
    paths = [folder / name for name in FILES]
    with paths[0].open("wb") as ids, paths[1].open("wb") as own, paths[2].open("wb") as spans:
        responses = _write(rows, ids, own, spans)
    if key:
        sizes = {path.name: path.stat().st_size for path in paths}
        hashes = {path.name: sha256_of(path) for path in paths}
        header = {"key": key, "responses": responses, "bytes": sizes, "sha256": hashes}
        write_json(folder / HEADER, header)
    return _mapped(folder, responses)


def _read(entry: Path, key: str) -> TokenArrays | None:
    try:
        header = read_json(entry / HEADER)
        whole = header["key"] == key and all(
            (entry / name).stat().st_size == header["bytes"][name]
            and sha256_of(entry / name) == header["sha256"][name]
            for name in FILES
        )
        return _mapped(entry, header["responses"]) if whole else None
    except (OSError, ValueError, LookupError, TypeError, msgspec.MsgspecError):
        return None


def _mapped(folder: Path, responses: int) -> TokenArrays:
    arrays = [
        np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, dtype=kind)
        for path, kind in ((folder / name, kind) for name, kind in FILES.items())
    ]
    return _arranged(arrays, responses)


def _arranged(arrays: list[Array], responses: int) -> TokenArrays:
    ids, own, spans = arrays
    return TokenArrays(ids=ids, own=own, spans=spans.reshape(-1, responses, 4))


def _write(rows: Rows, ids: IO[bytes], own: IO[bytes], spans: IO[bytes]) -> int:
    """Write the rows one by one; return how many responses each has, 1 when there are none."""
    end, responses = 0, 1
    for row in rows:
        before: tuple[tuple[int, ...], tuple[bool, ...]] | None = None
        responses = len(row)
        for sequence in row:
            length = len(sequence.prompt_ids)
            prompt = (sequence.prompt_ids, sequence.own[:length])
            if prompt != before:
                ids.write(array("i", sequence.prompt_ids))
                own.write(bytes(prompt[1]))
                start, end, before = end, end + length, prompt
                asked = (start, end)
            ids.write(array("i", sequence.response_ids))
            own.write(bytes(sequence.own[length:]))
            answered = (end, end + len(sequence.response_ids))
            end = answered[1]
            spans.write(array("q", (*asked, *answered)))
    return responses
