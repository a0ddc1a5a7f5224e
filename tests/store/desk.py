"""A store that worker processes of a test speak to, as real ones do over HTTP.

What a worker asks for is done by a function of the test; a refusal goes back as the name of its
class. Workers are `desk_worker.py`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import Any

from preftune.errors import StoreError

Operations = Mapping[str, Callable[..., Any]]
WORKER = Path(__file__).with_name("desk_worker.py")
Worker = subprocess.Popen[bytes]


class Server(ThreadingUnixStreamServer):
    """Answers each worker in a thread of its own, so that a stopped one holds up nobody."""

    daemon_threads = True
    block_on_close = False
    operations: Operations


class Line(StreamRequestHandler):
    """What one worker says, a line at a time."""

    server: Server

    def handle(self) -> None:
        with suppress(ConnectionError):  # the worker was killed
            for line in self.rfile:
                name, *said = json.loads(line)
                try:
                    answer = self.server.operations[name](*said)
                except StoreError as refused:
                    answer = type(refused).__name__
                self.wfile.write(json.dumps(answer).encode() + b"\n")


@contextmanager
def desk(folder: Path, operations: Operations) -> Iterator[str]:
    """Answer workers until the block ends; yield the address to call."""
    address = folder / "desk"
    with Server(str(address), Line) as server:
        server.operations = operations
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        try:
            yield str(address)
        finally:
            server.shutdown()


@contextmanager
def workers(address: str, kind: str, count: int) -> Iterator[list[Worker]]:
    """Start worker processes; those that run when the block ends are killed."""
    running = [start(address, kind) for _ in range(count)]
    try:
        yield running
    finally:
        for one in running:
            end(one)


def start(address: str, kind: str) -> Worker:
    """Start a worker."""
    return subprocess.Popen([sys.executable, "-S", str(WORKER), address, kind])


def end(worker: Worker) -> None:
    """Kill a worker, stopped or not, and wait for its end."""
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
