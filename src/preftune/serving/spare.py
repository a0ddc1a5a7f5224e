"""A worker process that has its libraries loaded and waits for the next job."""

import os
from pathlib import Path

import msgspec

from preftune.serving.api.settings import ApiSettings
from preftune.serving.child import Child, start_child
from preftune.serving.job_folders import threads_for
from preftune.wire.job import Order


class SpareWorker:
    """Starts workers, one of them ahead of its job.

    Importing takes most of the time of a small job, so it is done before the job is there: after
    one has ended, for where one was made another often follows, and while others wait. A spare
    that no job wants leaves after a while, see `jobs/order.py`, and comes back after the next job.
    """

    def __init__(self, module: str, api: ApiSettings) -> None:
        """Prepare; nothing is started.

        Args:
            module: that a worker runs.
            api: whether one is kept, and how many threads and how much way they have.
        """
        self.wanted = False  # whether something has happened since the last one was started
        self._module, self._api = module, api
        self._spare: Child | None = None

    def prepare(self) -> None:
        """Start a spare if one is wanted and there is none.

        Raises:
            OSError: no process can be started.
        """
        if self.wanted and self.is_missing:
            self.wanted = False
            self._spare = self._start(Path(os.devnull))

    def take(self, order: Order) -> Child:
        """Give the order to the spare, or to a worker that is started for it, and return that.

        Raises:
            OSError: no process can be started.
        """
        line = msgspec.json.encode(order)
        spare, self._spare = self._spare, None
        if spare is not None and spare.poll() is None:
            if spare.tell(line):
                return spare
            spare.kill()
        child = self._start(Path(order.log))
        child.tell(line)
        return child

    def close(self) -> None:
        """End the spare: it has begun nothing."""
        if self._spare is not None:
            self._spare.kill()

    @property
    def is_missing(self) -> bool:
        """Whether there should be one and is none."""
        there = self._spare is not None and self._spare.poll() is None
        return self._api.spare_worker and not there

    def _start(self, log: Path) -> Child:
        return start_child(
            [self._module],
            log=log,
            nice=self._api.job_nice,
            environment={"OMP_NUM_THREADS": str(threads_for(self._api))},
        )
