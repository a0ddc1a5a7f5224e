"""A key that is never given as a value, never printed, and taken out of whatever is shown."""

import os
import re
from pathlib import Path

from preftune.errors import SettingsError

HIDDEN = "[key]"
SHORTEST = 8  # a shorter one could not be told from ordinary text
KEY_LIKE = re.compile(r"\b(?:sk|pk)-[\w*.-]{4,}|\bBearer\s+[^\s\"',}]+", re.IGNORECASE)


class Secret:
    """Holds a key; `str` and `repr` say only that there is one."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Take the key.

        Raises:
            SettingsError: shorter than 8 characters, or not visible ASCII.
        """
        if len(value) < SHORTEST or not re.fullmatch(r"[!-~]+", value):
            raise SettingsError(
                f"the key: not {SHORTEST} or more visible ASCII characters. Give the key alone."
            )
        self._value = value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        raise TypeError("a secret is never written down")

    def reveal(self) -> str:
        """Return the key itself: for the header of a request, nothing else."""
        return self._value

    def hide_in(self, body: bytes) -> bytes:
        """Return the bytes with the key replaced by `[key]`."""
        return body.replace(self._value.encode(), HIDDEN.encode())


def read_secret(env: str, file: Path | None) -> Secret | None:
    """Return the key in an environment variable or a file; None when neither is named.

    No error repeats what was given: a key typed by mistake in place of a name stays unprinted.

    Raises:
        SettingsError: both are named, or the one named holds no usable key.
    """
    if env and file:
        raise SettingsError("key_env and key_file are both given. Name one place of the key.")
    if env:
        value = os.environ.get(env, "")
        if not value:
            raise SettingsError(
                "key_env: no environment variable of that name holds a key. "
                "Give the name of a variable, not the key."
            )
        return Secret(value)
    return Secret(_text(file)) if file else None


def hide_keys(text: str) -> str:
    """Return the text with everything that looks like a key, masked or whole, made `[key]`."""
    return KEY_LIKE.sub(HIDDEN, text)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise SettingsError(
            f"key_file: {what}. Give the path of a file that holds the key alone."
        ) from None
