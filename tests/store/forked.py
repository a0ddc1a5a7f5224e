"""Processes of `preftune` that start in milliseconds: forked from one that has it loaded.

Each is a process of its own that runs the command and can be killed; what is saved is only the
time of the imports, which twenty starts would spend twenty times.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARENT = """
import importlib, json, os, signal, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
from preftune.cli.main import main

running = set()
for line in sys.stdin:
    asked = json.loads(line)
    if "run" in asked:
        answer = os.fork()
        if not answer:
            os.dup2(2, 1)
            os._exit(main(asked["run"]))
        running.add(answer)
    else:
        os.kill(asked["end"], asked["signal"])
        answer = os.waitpid(asked["end"], 0)[1]
        running.discard(asked["end"])
    print(answer, flush=True)
for process in running:  # the test is over, however it ended
    os.kill(process, signal.SIGKILL)
"""


@dataclass(kw_only=True)
class Forks:
    """The process that the others are forked from."""

    parent: "subprocess.Popen[str]"

    def run(self, *arguments: str) -> int:
        """Start `preftune ARGUMENTS…` and return the number of the process."""
        return self._ask({"run": arguments})

    def end(self, process: int, sign: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the end, and return how it ended, as `os.waitpid` says it."""
        return self._ask({"end": process, "signal": sign})

    def _ask(self, what: dict[str, Any]) -> int:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps(what) + "\n")
        self.parent.stdin.flush()
        answer = self.parent.stdout.readline()
        assert answer, "the process that the others are forked from ended"
        return int(answer)


@contextmanager
def forks(log: Path, *modules: str) -> Iterator[Forks]:
    """Load modules once; what the processes print goes into the log."""
    command = [sys.executable, "-c", PARENT, *modules]
    pipe = subprocess.PIPE
    with (
        log.open("wb") as said,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True) as parent,
    ):
        yield Forks(parent=parent)


def is_running(process: int) -> bool:
    """Return whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
