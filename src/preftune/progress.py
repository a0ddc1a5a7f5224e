"""Progress bars with time left, on standard error; silent when it is not a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SHOWING = ContextVar("_SHOWING", default=False)  # a bar within a bar stays silent


class Advance(Protocol):
    """Moves the bar on; `note` is short text at its right end, such as the loss."""

    def __call__(self, steps: int = 1, *, note: str = "") -> None:
        """Add `steps` to the bar."""


@contextmanager
def progress(label: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Yield a function that advances a bar of `total` steps, `done` of them done before."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    console = Console(stderr=True)
    silent = _SHOWING.get() or not console.is_terminal
    showing = _SHOWING.set(True)
    try:
        with Progress(*columns, console=console, disable=silent) as bar:
            task = bar.add_task(label, total=total, completed=done, note="")

            def advance(steps: int = 1, *, note: str = "") -> None:
                bar.update(task, advance=steps, note=note)

            yield advance
    finally:
        _SHOWING.reset(showing)
