"""Python graders in their jail, as seen from outside: wardens, deadlines, and what came back.

A python grader is code of whoever may write a grader. It runs in a process of its own with an empty
environment, no network, no other processes, an unprivileged user, its own few files and hard
limits, or it does not run at all.
"""

import ast
import json
import os
import select
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.graders.jail_main import LENGTH, MOST_SAID_BYTES
from preftune.settings import checked
from preftune.text import visible

GRACE_S = 5.0  # for the warden to tell of a grading that it stopped
START_S = 60.0
PRELOADED = {
    *("collections", "datetime", "decimal", "difflib", "fractions", "functools", "itertools"),
    *("json", "math", "random", "re", "statistics", "string", "typing", "unicodedata"),
    *("numpy", "pandas", "rapidfuzz", "rouge_score", "scipy", "sklearn"),
}
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # else the libraries take all
START = (
    "import sys; sys.path.append(sys.argv[1]); import preftune.graders.jail_main as jail; "
    "sys.path.pop(); jail.main()"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSettings:
    """Whether python graders run, and what one grading may use. The defaults are OpenAI's."""

    allow_python: Annotated[bool, Meta(description="False: python graders are refused.")] = True
    deadline_s: Annotated[
        float, Meta(gt=0, le=3600, description="Longest time of one grading, by clock and CPU.")
    ] = 120.0
    memory_bytes: Annotated[
        int, Meta(ge=2**26, description="Address space of one grading, in bytes.")
    ] = 2 * 2**30
    disk_bytes: Annotated[
        int, Meta(ge=2**16, description="Size of the temp folder, kept in memory, in bytes.")
    ] = 2**30
    threads: Annotated[int, Meta(ge=1, description="Most threads; processes there are none.")] = 16
    open_files: Annotated[int, Meta(ge=8, description="Most open files.")] = 64
    workers: Annotated[int, Meta(ge=1, le=256, description="Most gradings at once.")] = 2
    libraries: Annotated[
        bool, Meta(description="True: graders may import what is installed, such as numpy.")
    ] = False
    isolation: Annotated[
        Literal["auto", "namespaces", "user"],
        Meta(
            description="namespaces; user (as root, where namespaces are refused: an unprivileged "
            "user that sees the world's public files and writes none); auto tries both in turn."
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one grading came to: `ok` with its reward, or another kind and why."""

    kind: str
    reward: float = 0.0
    details: str = ""


class Sandbox:
    """Runs one grader's source over many items, each in a fresh process; many threads may call."""

    def __init__(self, source: str, settings: SandboxSettings) -> None:
        """Start the first warden.

        Raises:
            SettingsError: python graders are forbidden, or cannot be isolated here; says why.
        """
        self.settings = checked(settings)
        if not settings.allow_python:
            raise SettingsError(
                "python grader: forbidden here (allow_python is off). Use another type."
            )
        self._source = source
        self._lock = Lock()
        self._idle: LifoQueue[_Worker] = LifoQueue()
        self._workers: list[_Worker] = []
        self._give_back(self._start())

    @property
    def walls(self) -> str:
        """How graders are isolated: `namespaces` or `user`."""
        return self._workers[0].walls

    def grade(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> Said:
        """Return what `grade(sample, item)` came to; never raises for what the source does."""
        request = json.dumps({"sample": sample, "item": item}).encode()
        with self._borrowed() as worker:
            return worker.grade(request)

    def close(self) -> None:
        """End all wardens and what they run."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @contextmanager
    def _borrowed(self) -> "Iterator[_Worker]":
        worker = self._take()
        try:
            yield worker
        finally:
            self._give_back(worker)

    def _take(self) -> "_Worker":
        with self._lock:
            wanted = self._idle.empty() and len(self._workers) < self.settings.workers
            if wanted:
                return self._start()
        return self._idle.get()

    def _start(self) -> "_Worker":
        worker = _Worker(self._source, self.settings)
        self._workers.append(worker)
        return worker

    def _give_back(self, worker: "_Worker") -> None:
        self._idle.put(worker)


class _Worker:
    """One warden at the other end of two pipes; started anew when it is lost."""

    def __init__(self, source: str, settings: SandboxSettings) -> None:
        self._settings, self._process = settings, 0
        self._first = _start_message(source, settings)
        self._busy, self._closed = Lock(), False
        self.walls = self._start()

    def grade(self, request: bytes) -> Said:
        with self._busy:
            if not self._process and not self._closed:
                self._start()
            answer = self._exchange(request, self._settings.deadline_s + GRACE_S)
            if answer is None:
                self._stop()
                return Said(kind="lost", details="while grading")
        return Said(
            kind=answer["kind"],
            reward=answer.get("reward", 0.0),
            details=visible(answer.get("details", "")),
        )

    def close(self) -> None:
        """End the warden and whatever runs in its walls, a grading of another thread too."""
        self._closed = True
        self._kill()
        with self._busy:
            self._stop()

    def _kill(self) -> None:
        if self._process:
            os.kill(self._process, signal.SIGKILL)

    def _stop(self) -> None:
        if not self._process:
            return
        self._kill()
        os.waitpid(self._process, 0)
        self._process = 0
        os.close(self._requests)
        os.close(self._answers)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> str:
        """Start a warden in a bare interpreter and return which walls it has built."""
        self._folder = tempfile.mkdtemp(prefix="preftune-grader-")
        Path(self._folder).chmod(0o755)
        its_requests, self._requests = os.pipe()
        self._answers, its_answers = os.pipe()
        self._process = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-B", "-c", START, str(Path(__file__).parents[2])],
            ONE_THREAD if self._settings.libraries else {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, its_requests, 0),
                (os.POSIX_SPAWN_DUP2, its_answers, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
        )
        os.close(its_requests)
        os.close(its_answers)
        os.set_blocking(self._requests, False)
        first = json.dumps({**self._first, "folder": self._folder}).encode()
        answer = self._exchange(first, START_S)
        if answer is None or "walls" not in answer:
            self._stop()
            why = "it did not start" if answer is None else visible(str(answer.get("refused")))
            raise SettingsError(
                f"python grader: no isolation here: {why}. Run where user namespaces are allowed, "
                "or as root, or use another type of grader."
            )
        return str(answer["walls"])

    def _exchange(self, request: bytes, deadline_s: float) -> dict[str, Any] | None:
        """Send one frame and return the answer; None when none came in time."""
        ends = time.monotonic() + deadline_s
        if not self._process or not self._send(LENGTH.pack(len(request)) + request, ends):
            return None
        head = self._receive(LENGTH.size, ends)
        if head is None or (size := LENGTH.unpack(head)[0]) > MOST_SAID_BYTES:
            return None
        body = self._receive(size, ends)
        found: dict[str, Any] | None = None if body is None else json.loads(body)
        return found

    def _send(self, request: bytes, ends: float) -> bool:
        rest = memoryview(request)
        while rest:
            if not _ready(self._requests, select.POLLOUT, ends):
                return False
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BrokenPipeError:
                return False
        return True

    def _receive(self, size: int, ends: float) -> bytes | None:
        found = b""
        while len(found) < size:
            if not _ready(self._answers, select.POLLIN, ends):
                return None
            piece = os.read(self._answers, size - len(found))
            if not piece:
                return None
            found += piece
        return found


def preloaded(source: str) -> list[str]:
    """Return which of `PRELOADED` a source imports: the warden reads those once for all gradings.

    No others: the warden still has its rights while it imports.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return sorted(found & PRELOADED)


def _start_message(source: str, settings: SandboxSettings) -> dict[str, Any]:
    paths = sysconfig.get_paths()
    libraries = sorted({paths["purelib"], paths["platlib"]}) if settings.libraries else []
    return {
        "source": source,
        "preload": preloaded(source),
        "libraries": libraries,
        "shown": [paths["stdlib"]],
        "isolation": settings.isolation,
        "limits": {
            "deadline_s": settings.deadline_s,
            "memory_bytes": settings.memory_bytes,
            "disk_bytes": settings.disk_bytes,
            "threads": settings.threads,
            "open_files": settings.open_files,
        },
    }


def _ready(pipe: int, event: int, ends: float) -> bool:
    """Whether the pipe became ready (or ended) before the time was up."""
    watched = select.poll()
    watched.register(pipe, event)
    left_s = ends - time.monotonic()
    return left_s > 0 and bool(watched.poll(left_s * 1000))
