"""What a worker process is to do, from its standard input; the libraries are loaded meanwhile."""

import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module

import msgspec

from preftune.wire.job import Order

LIBRARIES = ("preftune.jobs.worker", "peft", "transformers.models.auto.modeling_auto")
UNWANTED_S = 900.0  # a worker that waits longer than this leaves and gives its memory back


def next_order(libraries: Sequence[str] = LIBRARIES) -> Order | None:
    """Return the order, once there is one; None: nobody wants this worker any more.

    Output goes to the log that the order names, and standard input is empty from then on.

    Args:
        libraries: modules to import if there is none yet: seconds, of which the start of a small
            job mostly consists.
    """
    if not _can_read(0.0):
        for name in libraries:
            import_module(name)
    line = sys.stdin.buffer.readline() if _can_read(UNWANTED_S) else b""
    if not line:
        return None
    order = msgspec.json.decode(line, type=Order)
    _redirect(os.devnull, os.O_RDONLY, 0)
    _redirect(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 1, 2)
    return order


def _can_read(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def _redirect(path: str, flags: int, *numbers: int) -> None:
    opened = os.open(path, flags, 0o600)
    for number in numbers:
        os.dup2(opened, number)
    os.close(opened)
