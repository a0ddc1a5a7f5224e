"""Inside the jail: a warden that forks one process per grading, watches it, and tells what it said.

Run in a bare interpreter by `sandbox.Worker`. Frames go over stdin and stdout: four bytes of
length, then JSON. The first says what to run; the warden answers `{"walls": …}` or
`{"refused": why}`. Then each `{"sample", "item"}` is answered by `{"kind", "reward"}` or
`{"kind", "details"}`. Every grading starts in a fresh copy of the warden, so none sees another.
"""

import gc
import importlib
import importlib.abc
import importlib.util
import json
import math
import os
import select
import shutil
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from preftune.graders.jail_filter import Filter
from preftune.graders.jail_walls import build_walls, drop_rights, limit

MOST_SAID_BYTES = 64 * 1024  # of one grading's answer
MOST_DETAILS = 2000  # characters of an error
LENGTH = struct.Struct(">I")
MODULE = "grader"


class _Loader(importlib.abc.InspectLoader):
    """Makes a module of the grader's source; linecache finds its lines for the trace."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        if fullname != MODULE:
            raise ImportError(fullname)
        return self._source

    def is_package(self, fullname: str) -> bool:
        return fullname != MODULE


def main() -> None:
    """Build the walls, then serve gradings until stdin ends."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a handle left open would be a way out
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    start = json.loads(read_frame(requests) or b"null")
    if start is None:
        return
    try:
        shown = [*start["shown"], *start["libraries"]]
        disk_bytes = start["limits"]["disk_bytes"]
        walls, user = build_walls(start["isolation"], start["folder"], shown, disk_bytes)
        kernel_filter = Filter(read_only=walls == "user")
    except OSError as error:
        write_frame(answers, {"refused": str(error)})
        return
    warden = os.fork()  # the first process of the new namespace: with it ends all that is in it
    if warden:
        os.close(requests)
        os.waitpid(warden, 0)
        return
    kernel_filter.die_with_parent()
    if why := _try_out(user, kernel_filter):
        write_frame(answers, {"refused": why})
        return
    sys.path += start["libraries"]
    for name in start["preload"]:
        with suppress(ImportError):  # the grader meets the same error and is told
            importlib.import_module(name)
    gc.freeze()
    write_frame(answers, {"walls": walls})
    _serve(requests, answers, nowhere, start, (user, kernel_filter))


def _try_out(user: int, kernel_filter: Filter) -> str:
    """Return why no process can give up its rights and take the filter here; else nothing."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            drop_rights(user)
            kernel_filter.set()
        except OSError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    why = os.read(read_end, MOST_DETAILS).decode()
    os.close(read_end)
    os.waitpid(child, 0)
    return why


def _serve(
    requests: int,
    answers: int,
    nowhere: int,
    start: dict[str, Any],
    walls: tuple[int, Filter],
) -> None:
    while (request := read_frame(requests)) is not None:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            for one in (requests, answers, read_end):
                os.close(one)
            os.dup2(nowhere, 2)
            _grade_and_leave(request, write_end, start, walls)
        os.close(write_end)
        said, trouble = _listen(read_end, requests, start["limits"]["deadline_s"])
        os.close(read_end)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        _empty(Path.cwd())
        write_frame(answers, _understood(said, trouble, status))


def _grade_and_leave(
    request: bytes, said: int, start: dict[str, Any], walls: tuple[int, Filter]
) -> NoReturn:
    """Give up every right, then run the grader's source; never comes back."""
    user, kernel_filter = walls
    drop_rights(user)
    kernel_filter.die_with_parent()  # again: a change of user takes it off
    limit(start["limits"])
    kernel_filter.set()
    try:
        _tell(said, _graded(start["source"], json.loads(request)))
    except BaseException as error:
        _tell(said, {"kind": "raised", "details": _trace(error)})
        raise
    finally:
        os._exit(0)


def _graded(source: str, asked: dict[str, Any]) -> dict[str, Any]:
    loader = _Loader(source)
    spec = importlib.util.spec_from_loader(MODULE, loader)
    module: ModuleType = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]  # a loader gives one
    sys.modules[MODULE] = module
    loader.exec_module(module)
    reward = module.grade(asked["sample"], asked["item"])
    if hasattr(reward, "item") and type(reward).__module__ == "numpy":
        reward = reward.item()
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        return {"kind": "no_number", "details": f"grade returned {type(reward).__name__}"}
    reward = float(reward)
    if not math.isfinite(reward):
        return {"kind": "no_number", "details": f"grade returned {reward}"}
    return {"kind": "ok", "reward": reward}


def _trace(error: BaseException) -> str:
    """Return the kind of error, its text, and the grader's line."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == MODULE:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = str(error)[:MOST_DETAILS]
    where = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {text}{where}"


def _tell(said: int, answer: dict[str, Any]) -> None:
    os.write(said, json.dumps(answer).encode())


def _listen(said: int, requests: int, deadline_s: float) -> tuple[bytes, str]:
    """Return what a grading said and, when it was stopped, why."""
    found = b""
    ends = time.monotonic() + deadline_s
    watched = select.poll()
    watched.register(said, select.POLLIN)
    watched.register(requests, 0)  # its end alone: whoever asked is gone
    while (left_s := ends - time.monotonic()) > 0:
        events = dict(watched.poll(left_s * 1000 + 1))
        if requests in events:
            return found, "abandoned"
        if said in events:
            piece = os.read(said, 65536)
            if not piece:
                return found, ""
            found += piece
            if len(found) > MOST_SAID_BYTES:
                return b"", "said_too_much"
    return b"", "timeout"


def _understood(said: bytes, trouble: str, status: int) -> dict[str, Any]:
    """Return the answer to pass on; what a grading wrote is believed only in the right form."""
    if trouble:
        return {"kind": trouble, "details": ""}
    try:
        answer = json.loads(said)
        kind = answer["kind"]
        if kind == "ok":
            reward = float(answer["reward"])
            if math.isfinite(reward):
                return {"kind": "ok", "reward": reward}
        elif kind in {"raised", "no_number"}:
            return {"kind": kind, "details": str(answer["details"])[:MOST_DETAILS]}
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        pass
    died = os.waitstatus_to_exitcode(status)
    why = signal.Signals(-died).name if died < 0 else f"exit code {died}"
    return {"kind": "died", "details": why}


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def read_frame(source: int) -> bytes | None:
    """Return the next frame, None at the end."""
    head = _read_all(source, LENGTH.size)
    return None if head is None else _read_all(source, LENGTH.unpack(head)[0])


def write_frame(target: int, value: object) -> None:
    """Write one frame."""
    body = json.dumps(value).encode()
    rest = memoryview(LENGTH.pack(len(body)) + body)
    while rest:
        rest = rest[os.write(target, rest) :]


def _read_all(source: int, size: int) -> bytes | None:
    found = b""
    while len(found) < size:
        piece = os.read(source, min(size - len(found), 2**20))
        if not piece:
            return None
        found += piece
    return found
