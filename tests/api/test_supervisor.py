"""Workers as real processes under a real server: how they are started, watched, and ended."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api import jobs_world
from tests.api.honest_worker import DIES, DISK_FULL, FALLS_SILENT
from tests.api.jobs_world import JOBS, Server

start_server = jobs_world.start_server


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server]) -> Server:
    """One server with short leases, that trains two jobs at once."""
    os.environ["CANARY_API_KEY"] = "secret-of-the-server"
    started = start_server(max_jobs=2, job_lease_s=1.5, job_start_s=6, job_stop_s=10)
    del os.environ["CANARY_API_KEY"]
    return started


def test_a_job_is_trained_to_its_end(server: Server) -> None:
    job_id = server.create(n_epochs=2, batch_size=2)
    job = server.wait_for_end(job_id)
    assert (job["status"], job["trained_tokens"]) == ("succeeded", 2000)
    steps = server.steps(job_id)
    assert [step for step, _ in steps] == list(range(1, 21))
    rows = server.http.get(f"/v1/files/{job['result_files'][0]}/content").text
    assert rows == "step,train_loss\n" + "".join(f"{n},{loss}\n" for n, loss in steps)
    made = server.http.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    assert [one["step_number"] for one in made] == [20, 10]
    assert made[0]["fine_tuned_model_checkpoint"] == job["fine_tuned_model"]


def test_a_worker_is_nice_alone_in_its_group_and_knows_no_secret(server: Server) -> None:
    job_id = server.create(n_epochs=50, batch_size=20)
    server.wait(lambda: server.steps(job_id))
    pid = server.worker_pid(job_id)
    assert os.getpriority(os.PRIO_PROCESS, pid) >= min(19, os.getpriority(0, os.getpid()) + 10)
    assert os.getpgid(pid) == pid
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"secret-of-the-server" not in environment
    assert b"CANARY" not in environment
    assert server.key.encode() not in environment
    assert b"SECRET" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    server.http.post(f"{JOBS}/{job_id}/cancel")
    assert server.wait(lambda: not server.worker_pid(job_id)) < 3
    count = len(server.steps(job_id))
    time.sleep(0.1)
    assert (server.job(job_id)["status"], len(server.steps(job_id))) == ("cancelled", count)


def test_a_running_job_is_paused_with_a_checkpoint_and_goes_on(server: Server) -> None:
    job_id = server.create(n_epochs=3, batch_size=20)
    server.wait(lambda: len(server.steps(job_id)) > 3)
    job = server.http.post(f"{JOBS}/{job_id}/pause").json()
    assert job["status"] == "paused"
    step = job["preftune"]["step"]
    made = server.http.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    assert made[0]["step_number"] == step
    assert len(server.steps(job_id)) == step
    assert server.http.post(f"{JOBS}/{job_id}/resume").json()["status"] == "queued"
    assert server.wait_for_end(job_id)["status"] == "succeeded"
    assert [one for one, _ in server.steps(job_id)] == list(range(1, 31))


def test_a_job_that_kills_its_worker_ends_after_three_attempts(server: Server) -> None:
    job_id = server.create(n_epochs=1, batch_size=1, learning_rate_multiplier=DIES)
    job = server.wait_for_end(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "server_error")
    assert "killed by signal 9" in job["error"]["message"]
    gone = [event for event in server.events(job_id) if "is gone" in event["message"]]
    assert len(gone) == 2


def test_a_worker_that_falls_silent_is_replaced(server: Server) -> None:
    job_id = server.create(n_epochs=1, batch_size=1, learning_rate_multiplier=FALLS_SILENT)
    assert server.wait_for_end(job_id)["status"] == "succeeded"
    steps = [step for step, _ in server.steps(job_id)]
    assert steps == list(range(1, 11))


def test_a_full_disk_pauses_the_job_and_says_so(server: Server) -> None:
    job_id = server.create(n_epochs=1, batch_size=1, learning_rate_multiplier=DISK_FULL)
    server.wait(lambda: server.job(job_id)["status"] == "paused")
    assert server.job(job_id)["preftune"]["why"] == "disk full"
    server.http.post(f"{JOBS}/{job_id}/resume")
    assert server.wait_for_end(job_id)["status"] == "succeeded"
    assert [step for step, _ in server.steps(job_id)] == list(range(1, 11))


def test_r12_a_stopped_worker_wakes_up_and_publishes_nothing(server: Server) -> None:
    job_id = server.create(n_epochs=2, batch_size=60)
    server.wait(lambda: len(server.steps(job_id)) >= 4)
    stopped = server.worker_pid(job_id)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    server.wait(lambda: server.worker_pid(job_id) not in (0, stopped))
    server.wait(lambda: len(server.steps(job_id)) > 6)
    assert time.monotonic() - began < 40  # about 8 s on a machine with nothing else to do
    os.kill(stopped, signal.SIGCONT)
    server.wait(lambda: _is_gone(stopped))
    assert server.wait_for_end(job_id)["status"] == "succeeded"
    steps = server.steps(job_id)
    assert [step for step, _ in steps] == list(range(1, 21))
    made = server.http.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    assert [one["step_number"] for one in made] == [20, 10]


def test_jobs_run_side_by_side_and_the_others_wait_their_turn(server: Server) -> None:
    jobs = [server.create(n_epochs=50, batch_size=20) for _ in range(2)]
    last = server.create(n_epochs=1, batch_size=1)
    server.wait(lambda: [server.job(one)["status"] for one in jobs] == ["running"] * 2)
    assert server.job(last)["status"] == "queued"
    for job_id in jobs:
        server.http.post(f"{JOBS}/{job_id}/cancel")
    assert server.wait_for_end(last)["status"] == "succeeded"


def test_a_job_whose_file_is_deleted_before_it_begins_is_trained(server: Server) -> None:
    content = server.http.get(f"/v1/files/{server.chats}/content").content
    parts = {"file": ("rows.jsonl", content, "application/octet-stream")}
    file_id = server.http.post("/v1/files", files=parts, data={"purpose": "fine-tune"}).json()["id"]
    jobs = [server.create(n_epochs=50, batch_size=20) for _ in range(2)]
    body = {
        "model": "tiny",
        "training_file": file_id,
        "hyperparameters": {"n_epochs": 1, "batch_size": 1},
    }
    waiting = server.http.post(JOBS, json=body).json()["id"]
    assert server.http.delete(f"/v1/files/{file_id}").json()["deleted"]
    for job_id in jobs:
        server.http.post(f"{JOBS}/{job_id}/cancel")
    assert server.wait_for_end(waiting)["status"] == "succeeded"


def test_simple_requests_stay_fast_meanwhile(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = server.create(n_epochs=50, batch_size=5)
    server.wait(lambda: len(server.steps(job_id)) > 3)
    took = []
    for _ in range(100):
        for path in ("/v1/models", f"{JOBS}/{job_id}"):
            began = time.perf_counter()
            assert server.http.get(path).status_code == 200
            took.append(time.perf_counter() - began)
    server.http.post(f"{JOBS}/{job_id}/cancel")
    p95 = sorted(took)[int(0.95 * len(took))]
    with capsys.disabled():
        sys.stdout.write(f"\np95 of simple GETs while a job runs: {1000 * p95:.0f} ms\n")
    assert p95 < 2


def test_r23_a_stop_leaves_checkpoints_and_a_start_goes_on(
    start_server: Callable[..., Server],
) -> None:
    server = start_server()
    job_id = server.create(n_epochs=3, batch_size=25)
    server.wait(lambda: len(server.steps(job_id)) > 4)
    began = time.monotonic()
    assert server.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 30
    assert server.worker_pid(job_id) == 0
    server.start()
    stopped = [one["message"] for one in server.events(job_id) if "told to leave" in one["message"]]
    assert len(stopped) == 1
    assert server.wait_for_end(job_id)["status"] == "succeeded"
    assert [step for step, _ in server.steps(job_id)] == list(range(1, 31))


def test_r23_a_second_signal_ends_everything_at_once(start_server: Callable[..., Server]) -> None:
    server = start_server()
    job_id = server.create(n_epochs=1, batch_size=256)
    server.wait(lambda: len(server.steps(job_id)) > 0)
    pid = server.worker_pid(job_id)
    os.kill(pid, signal.SIGSTOP)  # it cannot leave by itself
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert server.process.poll() is None
    began = time.monotonic()
    assert server.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 10  # it does not wait for the worker
    assert _is_gone(pid)


def _is_gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
