"""The key of this installation: it seals checkpoints, so that one from elsewhere is known as such.

It lies in the user's data folder, `$XDG_DATA_HOME/preftune` or `~/.local/share/preftune`, and is
made when it is first needed. Whoever can read it can seal; only its owner may.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from preftune.errors import CheckpointError
from preftune.files import fsync_dir, make_folder

FILE = "installation.key"
BYTES = 32
HEX = re.compile(rb"[0-9a-f]{64}\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A secret of 32 bytes, and the name under which others may speak of it."""

    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """16 hex digits that tell keys apart and give nothing away."""
        return hashlib.sha256(b"preftune key " + self.secret).hexdigest()[:16]

    def seal(self, content: bytes) -> str:
        """Return HMAC-SHA256 over the content, 64 hex digits.

        Source: RFC 2104.
        """
        return hmac.digest(self.secret, content, "sha256").hex()

    def fits(self, seal: str, content: bytes) -> bool:
        """Whether this key made the seal of this content."""
        return hmac.compare_digest(self.seal(content).encode(), seal.encode())


def key_path() -> Path:
    """Return where the key of this installation lies, or will lie."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "preftune" / FILE


def installation_key() -> Key:
    """Return the key of this installation; the first time it is made, for its owner alone.

    Raises:
        CheckpointError: it cannot be read or written, is no key, or others may read it.
    """
    path = key_path()
    try:
        if not path.exists():
            _make(path)
        mode, content = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}. Checkpoints are sealed with this key: make the folder "
            "writable, or set XDG_DATA_HOME."
        ) from error
    if mode & 0o077:
        raise CheckpointError(f"{path}: others may read this key. Run: chmod 600 {path}")
    if not HEX.fullmatch(content):
        raise CheckpointError(
            f"{path}: is no key of 64 hex digits. Put the right one back; without it, delete the "
            "file, and go on with old runs by --trust-foreign."
        )
    return Key(secret=bytes.fromhex(content.decode()))


def _make(path: Path) -> None:
    """Write a new key; one that another process made in between stays."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{FILE}.", suffix=".tmp")  # mode 600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)  # unlike a rename it never takes the place of a file
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    fsync_dir(path.parent)
