"""`python -m preftune.jobs`: the process that does one attempt at a job, once it is told which.

Exit codes: 0 the last word was heard, or the job is somebody else's now; 1 an error that nobody
foresaw, its trace on stderr; 3 nobody heard the last word.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from preftune.errors import PreftuneError
from preftune.jobs.clone import tidy
from preftune.jobs.failures import disk_trouble, problem_of
from preftune.jobs.order import loading, next_order
from preftune.jobs.reporter import Reporter, UnheardError
from preftune.training.signals import Stopped
from preftune.wire.job import Finish, JobSpec, Order

if TYPE_CHECKING:
    from preftune.jobs.looking_on import JobObserver

UNHEARD = 3
logger = logging.getLogger("preftune.jobs")


def main() -> int:
    """Wait for an order and carry it out; return the exit code."""
    libraries = loading()
    order = next_order()
    code = 0 if order is None else carry_out(order, ready=libraries.join)
    if libraries.is_alive():  # no interpreter ends well in the middle of an import
        sys.stderr.flush()
        os._exit(code)
    return code


def carry_out(order: Order, *, ready: Callable[[], None] = lambda: None) -> int:
    """Do one attempt at a job, and return the exit code.

    Args:
        order: which one.
        ready: returns when the libraries are there; called once the server hears of this worker.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    spec = msgspec.json.decode(Path(order.spec).read_bytes(), type=JobSpec)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reporter = Reporter(spec=spec, secret=order.secret)
    os.chdir(spec.folder)
    reporter.start()
    try:
        word = last_word(spec, reporter, ready)
        reporter.last_word(word)
        if word.outcome in ("succeeded", "failed"):
            tidy()
    except (UnheardError, KeyboardInterrupt) as error:
        if reporter.lost:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # we are leaving already
            return 0
        logger.warning("left without a last word: %s", error)
        return UNHEARD
    return 0


def last_word(spec: JobSpec, reporter: Reporter, ready: Callable[[], None]) -> Finish:
    """Do the job, and return what the server must hear of its end.

    Raises:
        KeyboardInterrupt: the job is somebody else's, or the process was told to end at once.
    """
    observers: list[JobObserver] = []
    saved = reporter.standing
    try:
        ready()
        from preftune.jobs.worker import run_job

        return run_job(spec, reporter, observers)
    except KeyboardInterrupt as stop:
        learning = any(observer.learning for observer in observers)
        if reporter.lost or (learning and not isinstance(stop, Stopped)):
            raise
        if any(observer.pausing for observer in observers):
            return Finish(fence=spec.fence, outcome="paused", step=saved.saved)
        return Finish(fence=spec.fence, outcome="stopped", step=saved.saved)
    except (PreftuneError, OSError) as error:
        why = disk_trouble(error)
        logger.warning("%s: %s", type(error).__name__, error)
        if why:
            return Finish(fence=spec.fence, outcome="paused", step=saved.saved, why=why)
        if not isinstance(error, PreftuneError):
            raise
        problem = problem_of(error, spec)
        return Finish(fence=spec.fence, outcome="failed", step=saved.saved, error=problem)


if __name__ == "__main__":
    sys.exit(main())
