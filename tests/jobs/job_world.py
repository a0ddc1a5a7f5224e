"""Jobs on a tiny model: their rows, a server of the protocol, and real worker processes.

Workers are children of a fork server that has the libraries loaded already; one test starts
`python -m preftune.jobs` itself.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.jobs.job_server import WORKER, JobServer

from preftune.files import write_json
from preftune.wire.job import SPEC_FILE, Finish, JobSpec, Order

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preftune.jobs.worker", "preftune.jobs.__main__"])
COLOURS = ("red", "green", "blue", "black")
THINGS = ("bear", "shirt", "sock", "coat", "hat", "scarf")
PATIENCE_S = 60.0


def ask(colour: str, thing: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"can i wash my {colour} {thing} ?"}]


def say(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def demonstrations() -> list[dict[str, Any]]:
    return [
        {"messages": [*ask(c, t), say(f"thank you . you can wash the {c} {t} .")]}
        for c in COLOURS
        for t in THINGS
    ]


def pairs() -> list[dict[str, Any]]:
    return [
        {
            "input": {"messages": ask(c, t)},
            "preferred_output": [say(f"thank you . you can wash the {c} {t} .")],
            "non_preferred_output": [say(f"yes obviously wash it {t} .")],
        }
        for c in COLOURS
        for t in THINGS
    ]


def prompts() -> list[dict[str, Any]]:
    return [{"messages": ask(c, t), "word": "you"} for c in COLOURS for t in THINGS]


def child(path: Path, waits_for: Path | None = None) -> None:
    """Be a worker; its libraries are there when a file is."""
    from preftune.jobs.__main__ import carry_out

    def ready() -> None:
        until(lambda: waits_for is None or waits_for.exists(), what="the libraries")

    sys.exit(carry_out(order_for(path), ready=ready))


def order_for(spec: Path) -> Order:
    return Order(spec=str(spec), log=str(spec.with_name("worker.log")), secret=WORKER)


@dataclass(kw_only=True, slots=True)
class Jobs:
    """One job and its attempts."""

    server: JobServer
    root: Path
    world: Path
    given: dict[str, Any]
    last: BaseProcess | None = None

    def spec(self, **changes: Any) -> JobSpec:
        """Return what the next attempt is told."""
        method = self.given["method"]
        short = {"supervised": "sft", "dpo": "dpo", "reinforcement": "rft"}[method]
        folder = self.root / f"attempt-{self.server.fence}"
        earlier = [
            self.root / f"attempt-{number}"
            for number in range(self.server.fence)
            if (self.root / f"attempt-{number}" / "run").is_dir()
        ]
        base = {
            "job_id": "ftjob-1",
            "fence": self.server.fence,
            "server": self.server.url,
            "folder": str(folder),
            "earlier": str(earlier[-1]) if earlier else "",
            "model": str(self.world / "base"),
            "base": str(self.world / "base"),
            "training": str(self.world / f"{short}.jsonl"),
            "training_name": f"{short}.jsonl",
            "hyperparameters": {},
            "seed": 7,
        }
        return JobSpec(**{**base, **self.given, **changes})

    def prepare(self, **changes: Any) -> Path:
        """Make the folder of an attempt, and return it."""
        spec = self.spec(**changes)
        folder = Path(spec.folder)
        folder.mkdir(parents=True)
        self.server.folder = folder
        write_json(folder / SPEC_FILE, spec)
        return folder

    def begin(self, *, waits_for: Path | None = None, **changes: Any) -> BaseProcess:
        """Start an attempt."""
        folder = self.prepare(**changes)
        self.last = CONTEXT.Process(target=child, args=(folder / SPEC_FILE, waits_for))
        self.last.start()
        return self.last

    def next_attempt(self, **changes: Any) -> BaseProcess:
        """Give the job to another worker."""
        with self.server.lock:
            self.server.fence += 1
        return self.begin(**changes)

    def run(self, **changes: Any) -> Finish:
        """Do an attempt and return its last word."""
        worker = self.begin(**changes)
        worker.join(PATIENCE_S)
        assert worker.exitcode == 0
        assert not self.server.problems
        return self.server.ends[-1]

    def until_step(self, number: int) -> None:
        """Wait until the server has heard of so many steps."""
        until(lambda: len(self.server.steps()) >= number, what=f"step {number}")

    @property
    def attempt(self) -> Path:
        """The folder of the current attempt."""
        return self.root / f"attempt-{self.server.fence}"


def until(true: Callable[[], bool], *, what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
