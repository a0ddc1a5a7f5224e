"""Files that are never half-written: write to a temporary name, fsync, rename, fsync the folder."""

import errno
import gzip
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from preftune.errors import CheckpointError

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


@contextmanager
def disk_trouble_named(folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into an error that names the folder and says how to go on.

    Raises:
        CheckpointError: no space left, quota used up, read-only, or the disk itself fails.
    """
    try:
        yield
    except Exception as error:
        if not _is_disk_trouble(error):
            raise
        what = os.strerror(error.errno or 0) if isinstance(error, OSError) else "disk full"
        raise CheckpointError(
            f"{folder}: cannot write: {what}. Make room on this disk (or repair it), then run the "
            "same command: it goes on from the last checkpoint."
        ) from error


def _is_disk_trouble(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    return f"(os error {errno.ENOSPC})" in str(error)  # safetensors and tokenizers: written in Rust


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_dir(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; their names are durable when this returns."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_dir(folder.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing; a reader sees the old bytes or the new ones, never a mix."""
    with atomic_open(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes its name only when the block ends without an error.

    A path that ends in `.gz` is compressed on the way, with no time stamp inside, so that equal
    content gives equal bytes.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
                    yield packed  # type: ignore[misc]  # GzipFile is a binary file in all but name
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    Every file in it is fsynced first; a folder already at `path` is replaced as a whole.
    """
    make_folder(path.parent)
    temporary = _temporary_folder(path)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            (fsync_file if file.is_file() else fsync_dir)(file)
        fsync_dir(temporary)
        temporary.chmod(0o755)
        _take_name(temporary, path)
        fsync_dir(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder at once: killed on the way, what is left has a temporary name."""
    shutil.rmtree(_put_aside(folder))


def _take_name(temporary: Path, path: Path) -> None:
    """Rename a folder to `path`; a folder that is there, or comes in between, makes way."""
    try:
        temporary.rename(path)
    except OSError:
        if not path.is_dir():
            raise
        old = _put_aside(path)
        temporary.rename(path)
        shutil.rmtree(old)


def _put_aside(folder: Path) -> Path:
    """Give a folder a temporary name of its own."""
    return folder.rename(_temporary_folder(folder))  # onto an empty folder: one atomic step


def _temporary_folder(beside: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=beside.parent, prefix=f".{beside.name}.", suffix=".tmp"))


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, `.gz` unpacked on the way."""
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    return path.open("rb")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, indented, keys in the order given."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def read_json(path: Path) -> Any:
    """Return one JSON document as plain values."""
    return msgspec.json.decode(path.read_bytes())


def append_jsonl(path: Path, row: Any) -> None:
    """Append one line to a log; a killed process loses nothing that was appended before."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")


def fsync_file(path: Path) -> None:
    """Make what a file holds durable against a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last whole line of a log, so that the next line stands alone."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        whole = b"".join(path.read_bytes().rpartition(b"\n")[:2])
        write_atomic(path, whole)
