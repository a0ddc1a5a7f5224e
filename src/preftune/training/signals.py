"""What a run hears while it trains: a first Ctrl-C or SIGTERM ends the step, a second one all."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has saved where it is."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield whether SIGINT or SIGTERM came; put the old handlers back at the end."""
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller's own signals are its own business
        before = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
