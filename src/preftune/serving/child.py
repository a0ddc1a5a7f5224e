"""Processes that work for the server: nice to others, without its secrets, gone when it is gone.

    python -m preftune.serving.child PARENT NICE MODULE ARGUMENTS...

makes itself nice, asks the kernel for SIGTERM when its parent ends, and runs the module.
"""

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of Linux, <sys/prctl.h>
KEPT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PREFTUNE_CACHE",
    "PYTHONPATH",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
)
"""What a child sees of the server's environment; keys and passwords are not among it."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Child:
    """A process of ours, until it has ended and was asked for."""

    def __init__(self, pid: int, stdin: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._stdin = stdin

    def tell(self, line: bytes) -> bool:
        """Write a line of at most 4 KiB to its standard input and close that; False: it is gone."""
        try:
            os.write(self._stdin, line + b"\n")
        except BrokenPipeError:
            return False
        finally:
            self._close()
        return True

    def poll(self) -> int | None:
        """Return its exit code, the negative number of the signal that ended it; None: it runs."""
        if self._code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._ended(status)
        return self._code

    def ask_to_leave(self) -> None:
        """Send it SIGTERM."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started in its process group; return when it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self._ended(status)

    def _ended(self, status: int) -> None:
        self._code = os.waitstatus_to_exitcode(status)
        self._close()

    def _close(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1


def start_child(
    module: Sequence[str],
    *,
    log: Path,
    nice: int,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a Python module in a process group of its own.

    It gets SIGTERM when the thread that calls this ends, so call it from one that stays.

    Args:
        module: its name, and arguments.
        log: where its standard output and error are appended.
        nice: 0 to 19; the higher, the more it gives way to others.
        environment: what it sees beside the names in `KEPT`.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    launch = [sys.executable, "-m", __name__, str(os.getpid()), str(nice)]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    theirs, ours = os.pipe()  # neither is inherited but by name
    try:
        pid = os.posix_spawn(
            sys.executable,
            [*launch, *module],
            {**kept, **OFFLINE, **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Child(pid, ours)


def started_at(pid: int) -> str:
    """Return when a process was started, in ticks of this machine; "" where it is gone.

    Together with its number this names a process: numbers are used again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended


def main(parent: int, nice: int, module: str) -> None:
    """Run a module as `python -m` would, tied to the parent process."""
    os.nice(nice)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:  # else it ended before the kernel was asked
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    (parent_id, niceness, name), sys.argv[1:] = sys.argv[1:4], sys.argv[4:]
    main(int(parent_id), int(niceness), name)
