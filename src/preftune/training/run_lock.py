"""One process at a time in a run folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preftune.errors import CheckpointError
from preftune.files import disk_trouble_named, make_folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run folder if need be, and keep every other process out of it inside the block.

    Raises:
        CheckpointError: another process is at work in the folder, or its disk is full.
    """
    with disk_trouble_named(folder):
        make_folder(folder)
        lock = (folder / "run.lock").open("wb")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{folder}: another process is training here. Wait for it."
            ) from error
        yield
