"""The worker that is ready before its job: who gets it, what ends it, and what is left of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.api import jobs_world
from tests.api.jobs_world import JOBS, Server

from preftune.serving.child import started_at

start_server = jobs_world.start_server


def spares(server: Server) -> list[int]:
    """The processes of workers that have no job, and so no log."""
    assert server.process is not None
    processes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in processes if is_spare(pid, of=server.process.pid)]


def is_spare(pid: int, *, of: int) -> bool:
    with suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        is_worker = (int(parent), state != "Z", b"tests.api.honest_worker" in words)
        return is_worker == (of, True, True) and output(pid) == Path("/dev/null")
    return False


def output(pid: int) -> Path:
    return Path(f"/proc/{pid}/fd/1").readlink()


def one_done(server: Server) -> None:
    assert server.wait_for_end(server.create(n_epochs=1, batch_size=1))["status"] == "succeeded"


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server(job_stop_s=10)


def test_the_next_job_is_done_by_a_worker_that_was_there_before_it(server: Server) -> None:
    assert not spares(server)  # nobody has made a job here yet
    one_done(server)
    server.wait(lambda: len(spares(server)) == 1)
    (spare,) = spares(server)
    job_id = server.create(n_epochs=20, batch_size=20)
    server.wait(lambda: server.steps(job_id))
    assert server.worker_pid(job_id) == spare
    assert os.getpgid(spare) == spare
    assert output(spare).parts[-3:] == (job_id, "attempt-1", "worker.log")
    assert Path(f"/proc/{spare}/fd/0").readlink() == Path("/dev/null")
    assert server.http.post(f"{JOBS}/{job_id}/cancel").status_code == 200
    server.wait(lambda: len(spares(server)) == 1)
    one_done(server)


def test_a_spare_that_was_killed_is_not_missed(server: Server) -> None:
    one_done(server)
    server.wait(lambda: spares(server))
    (spare,) = spares(server)
    os.kill(spare, signal.SIGKILL)
    job_id = server.create(n_epochs=1, batch_size=1)
    assert server.wait_for_end(job_id)["status"] == "succeeded"
    assert not [event for event in server.events(job_id) if "is gone" in event["message"]]


def test_while_a_job_waits_the_next_worker_gets_ready(server: Server) -> None:
    running = server.create(n_epochs=50, batch_size=20)
    server.wait(lambda: server.steps(running))
    assert not spares(server)
    waiting = server.create(n_epochs=1, batch_size=1)
    server.wait(lambda: len(spares(server)) == 1)
    (spare,) = spares(server)
    server.http.post(f"{JOBS}/{running}/cancel")
    assert server.wait_for_end(waiting)["status"] == "succeeded"
    server.wait(lambda: spares(server) not in ([], [spare]))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_the_spare_goes_when_the_server_goes(server: Server, sign: signal.Signals) -> None:
    one_done(server)
    server.wait(lambda: spares(server))
    (spare,) = spares(server)
    server.end(sign)
    server.wait(lambda: not started_at(spare))


def test_there_is_none_where_none_is_wanted(start_server: Callable[..., Server]) -> None:
    server = start_server(spare_worker=False)
    running = server.create(n_epochs=4, batch_size=20)
    waiting = server.create(n_epochs=1, batch_size=1)
    assert server.wait_for_end(running)["status"] == "succeeded"
    assert not spares(server)
    assert server.wait_for_end(waiting)["status"] == "succeeded"
    assert not spares(server)


def test_a_worker_that_is_told_nothing_leaves_in_peace() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "preftune.jobs"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
