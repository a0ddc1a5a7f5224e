"""Server and workers killed at random moments: each job goes on, and nothing is told twice.

The worker trains nothing, but its losses follow from all steps before: a lost, doubled or foreign
step would show. `PREFTUNE_JOB_KILLS` sets how many kills; 10 unless set, 200 at night.
"""

import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api import jobs_world
from tests.api.jobs_world import JOBS, Server

start_server = jobs_world.start_server
KILLS = int(os.environ.get("PREFTUNE_JOB_KILLS", "10"))
KILLS_PER_JOB = 5
SEED = 6


@pytest.mark.faults
def test_r13_jobs_survive_kills_of_server_and_worker(
    start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server(job_lease_s=3, job_start_s=6)
    undisturbed = server.create(n_epochs=3, batch_size=1)
    assert server.wait_for_end(undisturbed)["status"] == "succeeded"
    expected = server.steps(undisturbed)
    chance, back_s, on_s = random.Random(SEED), [0.0], [0.0]
    jobs: list[str] = []
    for kill in range(KILLS):
        if kill % KILLS_PER_JOB == 0:
            jobs.append(server.create(n_epochs=3, batch_size=25))
        _gains(server, jobs[-1])
        time.sleep(chance.uniform(0, 0.3))
        victim = server.worker_pid(jobs[-1])
        if kill % 3 == 2 or not victim:
            server.end(signal.SIGKILL)
            back_s.append(server.start())
        else:
            os.kill(victim, signal.SIGKILL)
        on_s.append(_goes_on(server, jobs[-1], victim))
        if (kill + 1) % KILLS_PER_JOB == 0:
            assert server.wait_for_end(jobs[-1])["status"] == "succeeded"
    for job_id in jobs:
        _check_whole(server, job_id, expected)
    with capsys.disabled():
        said = f"seed {SEED}: server back in {max(back_s):.1f} s, jobs on in {max(on_s):.1f} s"
        sys.stdout.write(f"\n{said} at most\n")
    assert max(back_s) < 20  # below 5 and 30 s on a machine with nothing else to do
    assert max(on_s) < 90


def _gains(server: Server, job_id: str) -> None:
    """Wait for a checkpoint that was not there: three attempts without one would end the job."""
    before = server.job(job_id)["preftune"]["step"]
    server.wait(
        lambda: (
            server.job(job_id)["preftune"]["step"] > before
            or server.job(job_id)["status"] == "succeeded"
        )
    )


def _goes_on(server: Server, job_id: str, before: int) -> float:
    """Wait for another worker, or for the end of the job, and return how long that took."""
    return server.wait(
        lambda: (
            server.worker_pid(job_id) not in (0, before)
            or server.job(job_id)["status"] == "succeeded"
        )
    )


def _check_whole(server: Server, job_id: str, expected: list[tuple[int, float]]) -> None:
    """Check a job against the one that nobody disturbed: its steps, models, files and rows."""
    assert server.steps(job_id) == expected
    job = server.job(job_id)
    content = server.http.get(f"/v1/files/{job['result_files'][0]}/content").text
    assert content.count("\n") == len(expected) + 1
    made = server.http.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    assert [one["step_number"] for one in made] == [30, 20, 10]
    assert len({one["fine_tuned_model_checkpoint"] for one in made}) == 3
    messages = [event["message"] for event in server.events(job_id)]
    once = ("New checkpoint", "New fine-tuned model", "successfully completed", "job started")
    assert [sum(part in message for message in messages) for part in once] == [3, 1, 1, 1]
    for folder in _published(server, job_id):
        assert sorted(path.name for path in folder.iterdir()) == ["MANIFEST.json", "weights.txt"]


def _published(server: Server, job_id: str) -> list[Path]:
    """Return the folders of the models that the store names."""
    with sqlite3.connect(f"file:{server.folder / 'preftune.db'}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT folder FROM tuned_models WHERE job_id = ?", (job_id,)).fetchall()
    assert len(rows) == 4
    return [server.folder / "preftune.db.files" / row[0] for row in rows]
