"""What a worker process is to do, from its standard input, and its libraries meanwhile."""

import os
import select
import sys
import threading
from importlib import import_module

import msgspec

from preftune.wire.job import Order

LIBRARIES = ("preftune.jobs.worker", "peft", "transformers.models.auto.modeling_auto")
UNWANTED_S = 900.0  # a worker that waits longer than this leaves and gives its memory back


def loading() -> threading.Thread:
    """Start to import what every job needs: seconds, of which a small job mostly consists.

    Join the thread before anything of it is imported elsewhere. The worker beats meanwhile, so
    that on a busy machine nobody takes it for dead.
    """
    thread = threading.Thread(target=_import_all, name="libraries", daemon=True)
    thread.start()
    return thread


def _import_all() -> None:
    for name in LIBRARIES:
        import_module(name)


def next_order() -> Order | None:
    """Return the order, once there is one; None: nobody wants this worker any more.

    Output goes to the log that the order names, and standard input is empty from then on.
    """
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
