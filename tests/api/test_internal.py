"""What workers say over HTTP: who is heard, what is published, and what a stale one can do."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.api import jobs_world
from tests.api.conftest import URL
from tests.api.jobs_world import JOBS, World, open_world

from preftune.store import job_leases
from preftune.wire.job import LOST

world = jobs_world.world
MESSAGES: dict[str, dict[str, Any]] = {
    "beat": {"step": 0},
    "events": {"events": []},
    "started": {"hyperparameters": {}, "total_steps": 1},
    "checkpoint": {"step": 1, "folder": "m", "manifest_hash": "", "metrics": {}},
    "finish": {"outcome": "failed", "step": 0},
}


@pytest.fixture(autouse=True)
def nothing_waits(world: World) -> Iterator[None]:
    yield
    world.cancel_all()


def begun(world: World) -> tuple[str, int]:
    job_id = world.create()["id"]
    fence = world.claim(job_id)
    numbers = {"n_epochs": 1, "batch_size": 10, "learning_rate_multiplier": 1.0}
    started = {"hyperparameters": numbers, "total_steps": 8}
    assert world.worker(job_id, "started", fence=fence, **started).status_code == 200
    return job_id, fence


def result(world: World, job_id: str, fence: int, text: str) -> dict[str, Any]:
    folder = world.api.database.files / "jobs" / job_id / f"attempt-{fence}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.csv").write_text(text)
    return {"outcome": "succeeded", "step": 8, "metrics": {}, "result_csv": "result.csv"}


@pytest.mark.parametrize("what", MESSAGES)
def test_a_stale_worker_is_sent_away_and_changes_nothing(world: World, what: str) -> None:
    job_id, fence = begun(world)
    world.leave_model(job_id, fence, "m")
    write = world.api.database.write
    write(lambda db: job_leases.release(db, job_id, fence=fence, reason="test", now_s=time.time()))
    before = world.client.get(f"{JOBS}/{job_id}").json()
    history = world.client.get(f"{JOBS}/{job_id}/events").json()
    manifest = world.leave_model(job_id, fence, "late")
    told = {**MESSAGES[what], "fence": fence}
    if what == "checkpoint":
        told |= manifest
    assert world.worker(job_id, what, **told).status_code == LOST
    assert world.client.get(f"{JOBS}/{job_id}").json() == before
    assert world.client.get(f"{JOBS}/{job_id}/events").json() == history
    assert world.client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"] == []


def test_only_the_jobs_own_secret_from_this_machine_is_heard(world: World) -> None:
    job_id, fence = begun(world)
    path, body = f"/internal/jobs/{job_id}/beat", {"fence": fence, "step": 0}
    right = {"Authorization": f"Bearer {world.api.supervisor.token(job_id)}"}
    other = {"Authorization": f"Bearer {world.api.supervisor.token('ftjob-other')}"}
    assert world.near.post(path, json=body, headers=right).json() == {"asked": ""}
    odd = {b"authorization": b"Bearer \xc3\xa9"}
    for headers in (other, {}, odd):
        assert world.near.post(path, json=body, headers=headers).status_code == LOST
    far = TestClient(world.api.asgi, base_url=URL, client=("192.0.2.7", 50000))
    with far:
        assert far.post(path, json=body, headers=right).status_code == 404
    unknown = "/internal/jobs/ftjob-none/beat"
    token = world.api.supervisor.token("ftjob-none")
    its = {"Authorization": f"Bearer {token}"}
    assert world.near.post(unknown, json=body, headers=its).status_code == LOST
    assert not any("internal" in path for path in world.api.asgi.openapi()["paths"])


def test_a_message_of_the_wrong_shape_is_refused(world: World) -> None:
    job_id, fence = begun(world)
    assert world.worker(job_id, "beat", fence=str(fence), step=0).status_code == 400
    assert world.worker(job_id, "events", fence=fence).status_code == 400


def test_an_event_sent_again_is_told_once(world: World) -> None:
    job_id, fence = begun(world)
    event = {"key": "step-1", "message": "Step 1/8", "created_s": 1.0}
    for _ in range(3):
        assert world.worker(job_id, "events", fence=fence, events=[event]).status_code == 200
    history = world.client.get(f"{JOBS}/{job_id}/events").json()["data"]
    assert [one["message"] for one in history].count("Step 1/8") == 1


def test_a_checkpoint_told_again_keeps_its_name_and_is_a_model(world: World) -> None:
    job_id, fence = begun(world)
    told = {"step": 4, "metrics": {}, **world.leave_model(job_id, fence, "models/step-4")}
    names = {
        world.worker(job_id, "checkpoint", fence=fence, **told).json()["name"] for _ in range(2)
    }
    (name,) = names
    base, _, rest = name.partition(":preftune::")
    assert base == "ft:tiny"
    assert rest[8:] == ":ckpt-step-4"
    assert world.client.get(f"/v1/models/{name}").json()["id"] == name
    history = world.client.get(f"{JOBS}/{job_id}/events").json()["data"]
    assert [one["message"] for one in history].count(f"New checkpoint created: {name}") == 1


@pytest.mark.parametrize("folder", ["../attempt-9/m", "/etc", "missing", ".", ""])
def test_a_model_elsewhere_or_without_manifest_is_refused(world: World, folder: str) -> None:
    job_id, fence = begun(world)
    told = {"step": 4, "metrics": {}, "folder": folder, "manifest_hash": "0" * 64}
    assert world.worker(job_id, "checkpoint", fence=fence, **told).status_code == 400
    assert world.client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"] == []


def test_a_model_with_another_manifest_than_told_is_refused(world: World) -> None:
    job_id, fence = begun(world)
    model = world.leave_model(job_id, fence, "m")
    told = {**model, "manifest_hash": "0" * 64, "step": 4, "metrics": {}}
    assert world.worker(job_id, "checkpoint", fence=fence, **told).status_code == 400


def test_the_last_word_publishes_model_and_result_in_one(world: World) -> None:
    job_id, fence = begun(world)
    model = world.leave_model(job_id, fence, "models/step-8")
    text = "step,train_loss\n1,0.5\n"
    last = {**result(world, job_id, fence, text), **model, "trained_tokens": 1234}
    assert world.worker(job_id, "finish", fence=fence, **last).status_code == 200
    job = world.client.get(f"{JOBS}/{job_id}").json()
    assert (job["status"], job["trained_tokens"], len(job["result_files"])) == (
        "succeeded",
        1234,
        1,
    )
    about = world.client.get(f"/v1/files/{job['result_files'][0]}").json()
    assert (about["filename"], about["purpose"]) == ("step_metrics.csv", "fine-tune-results")
    content = world.client.get(f"/v1/files/{job['result_files'][0]}/content")
    assert content.text == text
    assert world.client.get(f"/v1/models/{job['fine_tuned_model']}").status_code == 200
    said = [e["message"] for e in world.client.get(f"{JOBS}/{job_id}/events").json()["data"]]
    assert said[0] == "The job has successfully completed"
    assert said[1] == f"New fine-tuned model created: {job['fine_tuned_model']}"
    assert world.worker(job_id, "finish", fence=fence, **last).status_code == LOST


def test_a_result_file_elsewhere_is_refused_and_nothing_is_published(world: World) -> None:
    job_id, fence = begun(world)
    last = {**result(world, job_id, fence, "x"), **world.leave_model(job_id, fence, "m")}
    for path in ("../../../preftune.db", "/etc/passwd"):
        told = {**last, "result_csv": path}
        assert world.worker(job_id, "finish", fence=fence, **told).status_code == 400
    job = world.client.get(f"{JOBS}/{job_id}").json()
    assert (job["status"], job["fine_tuned_model"]) == ("running", None)


def test_a_result_file_can_be_base64(tmp_path: Path) -> None:
    with open_world(tmp_path, result_encoding="base64") as other:
        job_id, fence = begun(other)
        last = {
            **result(other, job_id, fence, "step\n1\n"),
            **other.leave_model(job_id, fence, "m"),
        }
        assert other.worker(job_id, "finish", fence=fence, **last).status_code == 200
        job = other.client.get(f"{JOBS}/{job_id}").json()
        content = other.client.get(f"/v1/files/{job['result_files'][0]}/content").content
        assert base64.b64decode(content) == b"step\n1\n"


def test_failure_pause_and_stop_are_heard(world: World) -> None:
    job_id, fence = begun(world)
    error = {"code": "invalid_training_file", "message": "Example 3", "param": "training_file"}
    world.worker(job_id, "finish", fence=fence, outcome="failed", step=0, error=error)
    job = world.client.get(f"{JOBS}/{job_id}").json()
    assert (job["status"], job["error"]) == ("failed", error)
    job_id, fence = begun(world)
    world.worker(job_id, "finish", fence=fence, outcome="paused", step=0, why="disk full")
    job = world.client.get(f"{JOBS}/{job_id}").json()
    assert (job["status"], job["preftune"]["why"]) == ("paused", "disk full")
    assert world.client.post(f"{JOBS}/{job_id}/resume").json()["status"] == "queued"
    fence = world.claim(job_id)
    world.worker(job_id, "finish", fence=fence, outcome="stopped", step=0)
    assert world.client.get(f"{JOBS}/{job_id}").json()["status"] == "queued"
