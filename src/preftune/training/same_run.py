"""Whether a folder holds the run that was asked for: settings and inputs that decide a result."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from preftune.errors import SettingsError

MAY_CHANGE = {"out", "save_every", "threads", "trust_foreign"}  # when a run goes on


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the result, by their flat names."""
    return {name: value for name, value in settings.items() if name not in MAY_CHANGE}


def hash_of(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings, 64 hex digits."""
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()


def refuse_other(where: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on when anything differs from before.

    Raises:
        SettingsError: names what differs.
    """
    changed = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in now
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise SettingsError(
            f"{where}: holds another run: {'; '.join(changed)}. "
            "Use a new --out, or the old settings."
        )
