"""The key of an installation: made once, for its owner alone, and never guessed at."""

import hashlib
import hmac
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from preftune.engine.installation import Key, installation_key, key_path
from preftune.errors import CheckpointError

KEY = Key(secret=bytes(range(32)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_key_is_made_once_for_its_owner_alone(home: Path) -> None:
    first = installation_key()
    path = home / "preftune" / "installation.key"
    assert key_path() == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == first.secret.hex() + "\n"
    assert installation_key() == first
    assert [p.name for p in path.parent.iterdir()] == ["installation.key"]


def test_a_seal_is_hmac_sha256_of_rfc_2104() -> None:
    block = KEY.secret.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + b"content").digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner)
    assert (
        KEY.seal(b"content")
        == outer.hexdigest()
        == hmac.new(KEY.secret, b"content", "sha256").hexdigest()
    )
    assert KEY.fits(KEY.seal(b"content"), b"content")
    assert not KEY.fits(KEY.seal(b"content"), b"contend")
    assert not KEY.fits("", b"content")
    assert not KEY.fits("no seal \N{SNOWMAN}", b"content")


def test_a_key_is_named_and_never_shown() -> None:
    assert len(KEY.name) == 16
    assert KEY.name != Key(secret=bytes(32)).name
    assert KEY.secret.hex()[:8] not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)


@pytest.mark.parametrize("content", ["", "00" * 31 + "\n", "0x" * 32 + "\n", "00" * 32])
def test_what_is_no_key_is_refused(home: Path, content: str) -> None:
    installation_key()
    key_path().write_text(content)
    with pytest.raises(CheckpointError, match=r"installation\.key: is no key of 64 hex digits"):
        installation_key()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_or_write_is_refused(home: Path, mode: int) -> None:
    installation_key()
    key_path().chmod(mode)
    with pytest.raises(CheckpointError, match=r"others may read this key\. Run: chmod 600"):
        installation_key()


def test_a_folder_that_cannot_be_made_is_named(home: Path) -> None:
    home.write_text("in the way")
    with pytest.raises(CheckpointError, match="Checkpoints are sealed with this key"):
        installation_key()


MAKER = """
import sys
from preftune.engine.installation import installation_key
sys.stdin.readline()
print(installation_key().secret.hex())
"""


def test_processes_that_start_at_once_share_one_key(home: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate()[0].strip() for process in started}
    assert keys == {installation_key().secret.hex()}
