"""Where results that are costly to make again are kept between runs."""

import os
import shutil
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """Return the folder of one kind of results, None when the user wants nothing kept.

    `PREFTUNE_CACHE=off` switches it off, `PREFTUNE_CACHE=folder` moves it; else it lies in
    `$XDG_CACHE_HOME/preftune` or `~/.cache/preftune`.
    """
    wish = os.environ.get("PREFTUNE_CACHE", "")
    if wish == "off":
        return None
    if wish:
        return Path(wish) / kind
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "preftune" / kind


def forget_oldest(folder: Path, *, limit_bytes: int) -> None:
    """Delete the entries of a cache that were used longest ago until the rest fits."""
    if not folder.is_dir():
        return
    entries = sorted((e for e in folder.iterdir() if e.is_dir()), key=lambda e: e.stat().st_mtime)
    sizes = {e: sum(f.stat().st_size for f in e.rglob("*") if f.is_file()) for e in entries}
    total = sum(sizes.values())
    for entry in entries[:-1]:
        if total <= limit_bytes:
            return
        shutil.rmtree(entry, ignore_errors=True)
        total -= sizes[entry]
