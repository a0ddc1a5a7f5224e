"""What a new attempt takes over from the one before: linked where it is written once, else copied.

The earlier worker may still be there, stopped and about to wake up: it writes into its own folder,
and nothing of this one changes with it.
"""

import os
import shutil
from pathlib import Path

from preftune.files import atomic_folder

RUN, MODELS, START = Path("run"), Path("models"), Path("start")
NOTES = "started.json"
LEFT_OUT = {"plots", "run.lock"}


def take_over(earlier: Path) -> None:
    """Bring what an earlier attempt has reached into the current folder; `run/` comes last.

    Checkpoints are verified by whoever resumes from them, models here.
    """
    if RUN.exists() or not (earlier / RUN).is_dir():
        return
    from preftune.engine.checkpoint import verify  # torch

    for folder in (*sorted((earlier / MODELS).glob("step-*")), earlier / START):
        if folder.is_dir() and verify(folder) is None:
            _link_folder(folder, folder.relative_to(earlier))
    if (earlier / NOTES).is_file():
        shutil.copyfile(earlier / NOTES, NOTES)
    with atomic_folder(RUN) as writing:
        folders = [entry for entry in (earlier / RUN).iterdir() if entry.is_dir()]
        for folder in folders:
            if folder.name not in LEFT_OUT and not folder.name.endswith(".tmp"):
                _link_parts(folder, writing / folder.name)
        for file in (earlier / RUN).iterdir():  # logs after checkpoints: they reach as far
            if file.is_file() and file.name not in LEFT_OUT and not file.name.endswith(".tmp"):
                shutil.copyfile(file, writing / file.name)


def tidy() -> None:
    """Delete what only a job that goes on needs: checkpoints, reference log-probs, a merged start.

    The published models, the logs and the curves stay.
    """
    unneeded = [START, *(RUN / name for name in ("checkpoints", "best"))]
    for folder in (*unneeded, *RUN.glob("reference_*")):
        shutil.rmtree(folder, ignore_errors=True)


def _link_parts(folder: Path, to: Path) -> None:
    """Link a folder part by part; a part that its owner deletes meanwhile is left out whole."""
    to.mkdir()
    for part in folder.iterdir():
        if part.name.endswith(".tmp"):
            continue
        try:
            link(part, to / part.name)
        except FileNotFoundError:
            shutil.rmtree(to / part.name, ignore_errors=True)


def _link_folder(folder: Path, to: Path) -> None:
    with atomic_folder(to) as writing:
        for part in folder.iterdir():
            link(part, writing / part.name)


def link(source: Path, to: Path) -> None:
    """Link a file, or all files of a folder; on another disk they are copied.

    Both names are of one file from then on: write neither in place.
    """
    if source.is_dir():
        to.mkdir()
        for part in source.iterdir():
            link(part, to / part.name)
        return
    try:
        os.link(source, to)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, to)
