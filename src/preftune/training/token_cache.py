"""The tokens of a data set in flat arrays: mapped from disk, and kept for later runs.

    ids.i32     every id, prompt after response; a prompt that responses share lies there once
    own.u8      1 where the token is the model's own
    spans.i64   per response: start and end of its prompt, start and end of the response
    facts.bin   per row: what its raters said of it (`facts.FACTS`)
    header.json key, what the rows say as a whole, sizes and SHA-256 of the four, its own SHA-256

An entry is written whole or not at all and is read only when every byte of it is right, so two
processes may make the same one at the same time. `PREFTUNE_CACHE` moves the cache or switches it
off (`preftune.cache`); what was used longest ago goes first when it holds more than 5 GB.
"""

import hashlib
import io
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from preftune.cache import cache_folder, forget_oldest
from preftune.files import atomic_folder, read_json, sha256_of, write_json
from preftune.models.tokens import TokenSequence
from preftune.training.facts import FACTS, Facts, Said

LIMIT_BYTES = 5 << 30
FILES: dict[str, np.dtype[Any]] = {
    "ids.i32": np.dtype(np.int32),
    "own.u8": np.dtype(np.bool_),
    "spans.i64": np.dtype(np.int64),
    "facts.bin": FACTS,
}
HEADER = "header.json"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What the rows of an entry say as a whole."""

    data_hash: str = ""  # of their records
    notes: tuple[str, ...] = ()  # what a user should know of them


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenArrays:
    """All token sequences of N rows with K responses each."""

    ids: Array  # int32 `[tokens]`
    own: Array  # bool `[tokens]`
    spans: Array  # int64 `[N K 4]`: prompt from, prompt to, response from, response to
    facts: Facts  # `[N]`
    about: About = field(default_factory=About)

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


class Writer:
    """Takes rows one by one and holds none of them."""

    def __init__(self, ids: IO[bytes], own: IO[bytes], spans: IO[bytes], facts: IO[bytes]) -> None:
        self._ids, self._own, self._spans, self._facts = ids, own, spans, facts
        self._end = 0
        self.responses = 1  # of each row

    def add(self, row: Sequence[TokenSequence], said: Said) -> None:
        """Write one row; a prompt that follows itself is written once."""
        before: tuple[tuple[int, ...], tuple[bool, ...]] | None = None
        asked = (self._end, self._end)
        self.responses = len(row)
        for sequence in row:
            length = len(sequence.prompt_ids)
            prompt = (sequence.prompt_ids, sequence.own[:length])
            if prompt != before:
                asked, before = self._put(*prompt), prompt
            answered = self._put(sequence.response_ids, sequence.own[length:])
            self._spans.write(array("q", (*asked, *answered)))
        own = sum(sequence.own_length for sequence in row)
        self._facts.write(np.array((*said, own), dtype=FACTS).tobytes())

    def _put(self, ids: tuple[int, ...], own: tuple[bool, ...]) -> tuple[int, int]:
        """Write tokens; return where they begin and end."""
        self._ids.write(array("i", ids))
        self._own.write(bytes(own))
        start, self._end = self._end, self._end + len(ids)
        return start, self._end


Make = Callable[[Writer], About]


def in_memory(make: Make) -> TokenArrays:
    """Return the arrays of a small data set, without a file."""
    files = [io.BytesIO() for _ in FILES]
    writer = Writer(*files)
    about = make(writer)
    arrays: list[Array] = [
        np.frombuffer(file.getvalue(), dtype=kind)
        for file, kind in zip(files, FILES.values(), strict=True)
    ]
    return _arranged(arrays, writer.responses, about)


def found(key: str | None) -> tuple[TokenArrays | None, str]:
    """Return the arrays that lie in the cache, and what is wrong with them if they do no more.

    Args:
        key: a hash of all that the tokens depend on; None finds nothing.
    """
    folder = cache_folder("tokens")
    if folder is None or key is None or not (folder / key).exists():
        return None, ""
    entry = folder / key
    arrays = _read(entry, key)
    if arrays is None:
        shutil.rmtree(entry, ignore_errors=True)
        return None, f"{entry}: was damaged, tokenised again"
    with suppress(OSError):  # a cache that can only be read is of use all the same
        os.utime(entry)
    return arrays, ""


def keep(key: str | None, make: Make) -> tuple[TokenArrays, str]:
    """Return the arrays of a data set, in the cache from now on, and what went wrong there.

    Args:
        key: a hash of all that the tokens depend on; None keeps nothing.
        make: writes all rows; called again when the cache cannot be written.
    """
    folder = cache_folder("tokens")
    if folder is None or key is None:
        return _unkept(make), ""
    made, note = None, ""
    try:
        with atomic_folder(folder / f"{key}-{os.getpid()}") as writing:
            made = _make(writing, make, key)
        _take_name(folder / f"{key}-{os.getpid()}", folder / key)
    except OSError as error:
        note = f"{folder}: tokens are not kept: {error.strerror}. Set PREFTUNE_CACHE."
    with suppress(OSError):  # another process may be deleting the same entries
        forget_oldest(folder, limit_bytes=LIMIT_BYTES)
    return (_unkept(make) if made is None else made), note


def _take_name(made: Path, entry: Path) -> None:
    """Give a folder its name, unless another process was quicker: then its folder stays."""
    try:
        made.rename(entry)
    except OSError:
        if not entry.exists():
            raise
        shutil.rmtree(made)


def _unkept(make: Make) -> TokenArrays:
    """Map the arrays from files whose names are gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="preftune-tokens-") as name:
        return _make(Path(name), make, key="")


def _make(folder: Path, make: Make, key: str) -> TokenArrays:
    ids, own, spans, facts = (folder / name for name in FILES)
    with ids.open("wb") as i, own.open("wb") as o, spans.open("wb") as s, facts.open("wb") as f:
        writer = Writer(i, o, s, f)
        about = make(writer)
    if key:
        paths = (ids, own, spans, facts)
        sizes = {path.name: path.stat().st_size for path in paths}
        hashes = {path.name: sha256_of(path) for path in paths}
        header = {"key": key, "responses": writer.responses, "about": about}
        header |= {"bytes": sizes, "sha256": hashes}
        write_json(folder / HEADER, header | {"seal": _seal(header)})
    return _mapped(folder, writer.responses, about)


def _read(entry: Path, key: str) -> TokenArrays | None:
    try:
        header = read_json(entry / HEADER)
        whole = header.pop("seal") == _seal(header) and header["key"] == key
        whole = whole and all(
            (entry / name).stat().st_size == header["bytes"][name]
            and sha256_of(entry / name) == header["sha256"][name]
            for name in FILES
        )
        about = msgspec.convert(header["about"], About)
        return _mapped(entry, header["responses"], about) if whole else None
    except (OSError, ValueError, LookupError, TypeError, msgspec.MsgspecError):
        return None


def _seal(header: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(header, order="sorted")).hexdigest()


def _mapped(folder: Path, responses: int, about: About) -> TokenArrays:
    arrays: list[Array] = [
        np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, dtype=kind)
        for path, kind in ((folder / name, kind) for name, kind in FILES.items())
    ]
    return _arranged(arrays, responses, about)


def _arranged(arrays: list[Array], responses: int, about: About) -> TokenArrays:
    ids, own, spans, facts = arrays
    shaped = spans.reshape(-1, responses, 4)
    return TokenArrays(ids=ids, own=own, spans=shaped, facts=facts, about=about)
