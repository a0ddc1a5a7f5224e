"""Where in a log a prompt stands: file, line, the log's own id and time; personal ids are hashed.

A hash is keyed, and the key lies beside the log, so that its owner can go back and nobody else.
"""

import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Literal, get_args

from preftune.errors import DataError, SettingsError
from preftune.files import fsync_dir, sha256_of
from preftune.prompts.recognise import REGIONS, patterns
from preftune.types import LogRow

LogIds = Literal["auto", "hash", "keep"]
_MARK = "hmac:"
_HASHED = re.compile(rf"{_MARK}[0-9a-f]{{32}}")
_KEY = re.compile(rb"[0-9a-f]{64}\n?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SHORTEST_PERSONAL = 6  # characters: a@b.de


class LogIdReader:
    """Makes the `LogRow` of each row of one log."""

    def __init__(self, log: Path, *, ids: str = "auto", key: Path | None = None) -> None:
        """Look at the file, whole, for its hash.

        Args:
            log: the file.
            ids: `keep` them, `hash` them all, or `auto`: hash those that look personal.
            key: file of the key, made when it is first needed; None: `LOG.id-key`.

        Raises:
            SettingsError: an unknown value of `ids`.
        """
        if ids not in get_args(LogIds):
            raise SettingsError(f"--log-ids {ids!r}. Use one of: {', '.join(get_args(LogIds))}.")
        self.log, self.sha256 = log, sha256_of(log)
        self.hashed = 0
        self._ids = ids
        self._key_path = key or key_beside(log)
        self._key: bytes | None = None
        self._recognisers = patterns(REGIONS)

    def row(self, line: int, id: str, at: str) -> LogRow:
        """Return where a row stands, its id hashed where that is wanted."""
        if id and (self._ids == "hash" or (self._ids == "auto" and self._is_personal(id))):
            self._key = self._key or _key_at(self._key_path)
            id = hashed_id(id, self._key)
            self.hashed += 1
        return LogRow(file=self.log.name, sha256=self.sha256, line=line, id=id, at=at)

    def check_unchanged(self) -> None:
        """Raise `DataError` when the log is no longer what it was."""
        if sha256_of(self.log) != self.sha256:
            raise DataError(f"{self.log}: changed while it was read. Import a copy of it.")

    def _is_personal(self, id: str) -> bool:
        """Whether anything personal is found in an id, or it looks as if it were hashed already."""
        if len(id) < _SHORTEST_PERSONAL or _UUID.fullmatch(id):
            return False
        return is_hashed(id) or any(True for recognise in self._recognisers for _ in recognise(id))


def key_beside(log: Path) -> Path:
    """Return where the key of a log's ids lies: beside log.jsonl stands log.jsonl.id-key."""
    return log.with_name(f"{log.name}.id-key")


def is_hashed(id: str) -> bool:
    """Whether an id is what `hashed_id` returns."""
    return _HASHED.fullmatch(id) is not None


def hashed_id(id: str, key: bytes) -> str:
    """Return `hmac:` and 128 bits of HMAC-SHA256, in hex: with the key the id can be recognised."""
    return f"{_MARK}{hmac.digest(key, id.encode(), 'sha256').hex()[:32]}"


def read_key(path: Path) -> bytes:
    """Return the key of a file.

    Raises:
        DataError: it is not there, or is no key.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Give the key with --id-key.") from error
    if not _KEY.fullmatch(text):
        raise DataError(f"{path}: is no key of 64 hex digits. Give the right file with --id-key.")
    return bytes.fromhex(text.decode())


def _key_at(path: Path) -> bytes:
    """Return the key of a file, which is made, for its owner's eyes alone, when it is not there."""
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(f"{secrets.token_hex(32)}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)  # unlike a rename it leaves a key that came in between alone
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
        fsync_dir(path.parent)
    return read_key(path)
