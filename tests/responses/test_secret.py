import pickle
from pathlib import Path

import pytest

from preftune.errors import SettingsError
from preftune.responses.secret import Secret, hide_keys, read_secret

CANARY = "canary-7f3a9c21d5"


def test_key_comes_from_a_variable_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    (tmp_path / "key").write_text(f"{CANARY}\n")
    for found in (read_secret("SOME_KEY", None), read_secret("", tmp_path / "key")):
        assert found is not None
        assert found.reveal() == CANARY
    assert read_secret("", None) is None


def test_key_is_never_shown() -> None:
    secret = Secret(CANARY)
    assert CANARY not in f"{secret} {secret!r} {[secret]}"
    assert secret.hide_in(f"you sent {CANARY}, {CANARY}".encode()) == b"you sent [key], [key]"
    with pytest.raises(TypeError, match="never written down"):
        pickle.dumps(secret)


def test_error_repeats_nothing_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("two words")
    (tmp_path / "foreign").write_bytes(b"\xff\xfe")
    for env, file in (
        (CANARY, None),
        ("", tmp_path / CANARY),
        ("", tmp_path / "odd"),
        ("", tmp_path / "foreign"),
        ("A", tmp_path / "odd"),
    ):
        with pytest.raises(SettingsError) as caught:
            read_secret(env, file)
        assert CANARY not in str(caught.value)
        assert "two words" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("bad", ["", "short", "with blank 123", "new\nline-123", "ümlaut-1234"])
def test_key_that_is_no_header_value_is_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match="8 or more visible ASCII"):
        Secret(bad)


def test_what_looks_like_a_key_is_hidden() -> None:
    said = "Incorrect API key provided: sk-proj-ab**********wxyz. Bearer abc.def, then"
    assert hide_keys(said) == "Incorrect API key provided: [key] [key], then"
