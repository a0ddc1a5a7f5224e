"""Models over HTTP: bases, checkpoints and tuned models, and how they go."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai.types import Model
from tests.api import jobs_world
from tests.api.conftest import refused
from tests.api.jobs_world import JOBS, World, base_model

from preftune.errors import SettingsError
from preftune.serving.base_models import read_base_models

world = jobs_world.world


@pytest.fixture
def tuned(world: World) -> Iterator[str]:
    """The name of a model that a job has made."""
    job_id = world.create(suffix="care desk")["id"]
    fence = world.claim(job_id)
    model = world.leave_model(job_id, fence, "m")
    (world.api.database.files / "jobs" / job_id / f"attempt-{fence}" / "r.csv").write_text("step\n")
    last = {"outcome": "succeeded", "step": 3, "metrics": {}, "result_csv": "r.csv", **model}
    assert world.worker(job_id, "finish", fence=fence, **last).status_code == 200
    yield str(world.client.get(f"{JOBS}/{job_id}").json()["fine_tuned_model"])
    world.cancel_all()


def test_bases_and_tuned_models_are_listed_and_found(world: World, tuned: str) -> None:
    listed = world.client.get("/v1/models").json()
    assert listed["object"] == "list"
    owners = {one["id"]: one["owned_by"] for one in listed["data"]}
    assert (owners["tiny"], owners[tuned]) == ("system", "org-preftune")
    for name in ("tiny", tuned):
        found = world.client.get(f"/v1/models/{name}").json()
        assert Model.model_validate(found).id == name
        assert found in listed["data"]


def test_a_name_with_a_slash_comes_percent_encoded(tmp_path: Path) -> None:
    folder = base_model(tmp_path / "m")
    with jobs_world.open_world(tmp_path / "world") as other:
        other.api.asgi.state.base_models = read_base_models([f"org/tiny={folder}"])
        for path in ("org%2Ftiny", "org/tiny"):
            assert other.client.get(f"/v1/models/{path}").json()["id"] == "org/tiny"


def test_a_deleted_model_is_gone_and_its_job_stays(world: World, tuned: str) -> None:
    job_before = world.client.get(JOBS).json()["data"][0]
    answer = world.client.delete(f"/v1/models/{tuned}")
    assert answer.json() == {"id": tuned, "object": "model", "deleted": True}
    assert refused(world.client.get(f"/v1/models/{tuned}"), 404)["code"] == "model_not_found"
    assert refused(world.client.delete(f"/v1/models/{tuned}"), 404)
    assert tuned not in world.client.get("/v1/models").text
    assert world.refused(model=tuned)[1]["code"] == "model_not_available"
    assert world.client.get(JOBS).json()["data"][0] == job_before


def test_the_files_of_a_deleted_model_go_unless_another_name_needs_them(world: World) -> None:
    job_id = world.create()["id"]
    fence = world.claim(job_id)
    attempt = world.api.database.files / "jobs" / job_id / f"attempt-{fence}"
    first, last = (world.leave_model(job_id, fence, f"models/step-{n}") for n in (1, 2))
    names = [
        world.worker(job_id, "checkpoint", fence=fence, step=step, **model, metrics={}).json()[
            "name"
        ]
        for step, model in ((1, first), (2, last))
    ]
    (attempt / "r.csv").write_text("step\n")
    end = {"outcome": "succeeded", "step": 2, "metrics": {}, "result_csv": "r.csv", **last}
    world.worker(job_id, "finish", fence=fence, **end)
    names.append(world.client.get(f"{JOBS}/{job_id}").json()["fine_tuned_model"])

    def left() -> list[str]:
        return sorted(path.name for path in (attempt / "models").iterdir())

    assert left() == ["step-1", "step-2"]
    for name, expected in zip(names, (["step-2"], ["step-2"], []), strict=True):
        assert world.client.delete(f"/v1/models/{name}").status_code == 200
        assert left() == expected


def test_a_base_model_cannot_be_deleted(world: World) -> None:
    error = refused(world.client.delete("/v1/models/tiny"), 403)
    assert "base model" in error["message"]
    assert world.client.get("/v1/models/tiny").status_code == 200


def test_a_tuned_model_is_the_start_of_another_job_and_stays_meanwhile(
    world: World, tuned: str
) -> None:
    job = world.create(model=tuned)
    assert job["model"] == tuned
    error = refused(world.client.delete(f"/v1/models/{tuned}"), 400)
    assert error["code"] == "model_in_use"
    assert job["id"] in error["message"]
    world.client.post(f"{JOBS}/{job['id']}/cancel")
    assert world.client.delete(f"/v1/models/{tuned}").status_code == 200


@pytest.mark.parametrize("place", ["grader", "gate"])
def test_a_tuned_model_that_a_job_grades_with_stays_until_the_job_has_ended(
    world: World, tuned: str, place: str
) -> None:
    asked = [{"role": "user", "content": "{{sample.output_text}}"}]
    grader = {"type": "score_model", "name": "judge", "model": tuned, "input": asked}
    if place == "grader":
        method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
        job = world.create(training_file=world.prompts, method=method)
    else:
        rule = {"name": "r", "kind": "value_above", "measure": "reward", "threshold": 0}
        gate = {"rules": [rule], "grader": grader}
        method = {"type": "supervised", "preftune": {"gate": gate}}
        job = world.create(validation_file=world.chats, method=method)
    world.client.post(f"{JOBS}/{job['id']}/pause")
    error = refused(world.client.delete(f"/v1/models/{tuned}"), 400)
    assert error["code"] == "model_in_use"
    assert f"Job {job['id']} grades with '{tuned}'" in error["message"]
    world.client.post(f"{JOBS}/{job['id']}/cancel")
    assert world.client.delete(f"/v1/models/{tuned}").status_code == 200


def test_another_projects_models_are_like_none(world: World, tuned: str) -> None:
    stranger = world.api.stranger()
    assert [one["id"] for one in stranger.get("/v1/models").json()["data"]] == ["tiny"]
    for method in ("GET", "DELETE"):
        error = refused(stranger.request(method, f"/v1/models/{tuned}"), 404)
        assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_base_models_are_read_from_flags_and_a_file(tmp_path: Path) -> None:
    base_model(tmp_path / "one")
    base_model(tmp_path / "two")
    (tmp_path / "models.yaml").write_text("org/two: two\n")
    found = read_base_models([f"one={tmp_path / 'one'}"], tmp_path / "models.yaml")
    assert found.folders == {"one": tmp_path / "one", "org/two": tmp_path / "two"}


def test_a_hub_id_stands_for_its_downloaded_snapshot(tmp_path: Path) -> None:
    kept = tmp_path / "models--org--name"
    snapshot = base_model(kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    assert read_base_models(["org/name"], cache=tmp_path).folders == {"org/name": snapshot}
    with pytest.raises(SettingsError, match="downloaded"):
        read_base_models(["org/other"], cache=tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no model to tune"),
        (["a:b=/tmp"], "not a name"),
        (["../x=/tmp"], "not a name"),
        (["x=missing"], "no config.json"),
        (["tiny={tiny}", "tiny={tiny}"], "given twice"),
        (["ad={adapter}"], "is an adapter"),
    ],
)
def test_what_is_no_base_model_is_refused(tmp_path: Path, given: list[str], words: str) -> None:
    tiny, adapter = base_model(tmp_path / "tiny"), base_model(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(SettingsError, match=words):
        read_base_models([one.format(tiny=tiny, adapter=adapter) for one in given])
