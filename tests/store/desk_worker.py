"""A worker process of a test: `python desk_worker.py ADDRESS jobs|pieces`, see `desk.py`.

It loads nothing of the product, so that it starts at once.
"""

import json
import os
import socket
import sys
import time
from typing import Any

LOST = "LostLeaseError"
STEP_S = 0.01


class Desk:
    """The line to the store."""

    def __init__(self, address: str) -> None:
        self.line = socket.socket(socket.AF_UNIX)
        self.line.connect(address)
        self.file = self.line.makefile("rb")

    def ask(self, name: str, *said: Any) -> Any:
        self.line.sendall(json.dumps([name, *said]).encode() + b"\n")
        answer = self.file.readline()
        if not answer:
            sys.exit(0)  # the test is over
        return json.loads(answer)


def train(desk: Desk) -> None:
    """Take jobs and do their steps; refused, say everything else all the same, then leave the job.

    A real worker would leave at once; one that does not is the worse case.
    """
    while True:
        claimed = desk.ask("claim", os.getpid())
        if claimed is None:
            time.sleep(STEP_S)
            continue
        job_id, fence, step, steps = claimed
        heard: Any = ""
        while step < steps and heard != LOST:
            step += 1
            time.sleep(STEP_S)
            heard = desk.ask("step", job_id, fence, step)
        desk.ask("checkpoint", job_id, fence, step)
        desk.ask("finish", job_id, fence, step)


def judge(desk: Desk) -> None:
    """Take pieces of work, pay for each, and bring the result."""
    while item := desk.ask("take", os.getpid()):
        text = desk.ask("pay", item["key"], item["content"])
        desk.ask("put", item, text)


if __name__ == "__main__":
    {"jobs": train, "pieces": judge}[sys.argv[2]](Desk(sys.argv[1]))
