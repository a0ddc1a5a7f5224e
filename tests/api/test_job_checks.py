"""What is looked at before a job is made: graders' models, losses, rows, the queue."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import refused
from tests.api.jobs_world import (
    CHAT_ROW,
    JOBS,
    World,
    base_model,
    jsonl,
    open_world,
    put_file,
)

from preftune.serving.base_models import read_base_models
from preftune.store import job_leases
from preftune.wire.model_files import REWARD_FILE

CHECK = {"type": "string_check", "name": "c", "operation": "eq"}
GRADER = {**CHECK, "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
INPUT = [{"role": "user", "content": "Is {{sample.output_text}} kind?"}]
SCORE = {"type": "score_model", "name": "s", "model": "tiny", "input": INPUT}
LABELS = {"labels": ["a", "b"], "passing_labels": ["a"]}
LABEL = {**SCORE, "type": "label_model", "name": "l", **LABELS}
PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1.0"}
OWN = "method.reinforcement.grader"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with `tiny` and the reward model `kind`; the tests never look into either."""
    folder = tmp_path_factory.mktemp("world")
    with open_world(folder, python_graders=False) as opened:
        kind = base_model(folder / "kind")
        (kind / REWARD_FILE).write_text("{}")
        bases = read_base_models([f"tiny={folder / 'tiny'}", f"kind={kind}"])
        opened.api.asgi.state.base_models = bases
        yield opened


@pytest.fixture(autouse=True)
def nothing_waits(world: World) -> Iterator[None]:
    yield
    world.cancel_all()


def reinforcement(grader: dict[str, Any]) -> dict[str, Any]:
    return {"type": "reinforcement", "reinforcement": {"grader": grader}}


def gate(grader: dict[str, Any]) -> dict[str, Any]:
    rule = {"name": "r", "kind": "value_above", "measure": "reward", "threshold": 0}
    return {"gate": {"rules": [rule], "grader": grader}}


def multi(**graders: dict[str, Any]) -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": "+".join(graders)}


def dpo(extras: dict[str, Any], **numbers: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": numbers}, "preftune": extras}


@pytest.mark.parametrize(
    ("grader", "words"),
    [
        ({**SCORE, "model": "nope"}, "'nope' does not exist"),
        ({**LABEL, "model": "nope"}, "'nope' does not exist"),
        (multi(a=GRADER, s={**SCORE, "model": "nope"}), "'nope' does not exist"),
        ({**LABEL, "model": "kind"}, "'kind' scores text and writes none"),
        (multi(a=GRADER, s={**SCORE, "model": "kind"}), "'kind' scores text and writes none"),
    ],
)
def test_a_grader_whose_model_cannot_be_asked_is_refused_when_the_job_is_made(
    world: World, grader: dict[str, Any], words: str
) -> None:
    status, error = world.refused(training_file=world.prompts, method=reinforcement(grader))
    assert (status, error["code"]) == (400, "model_not_available")
    assert error["param"] == f"{OWN}.model"
    assert words in error["message"]
    method = {"type": "supervised", "preftune": gate(grader)}
    status, error = world.refused(validation_file=world.chats, method=method)
    assert (status, error["param"]) == (400, "method.preftune.gate.grader.model")
    assert words in error["message"]


@pytest.mark.parametrize("grader", [SCORE, LABEL, {**SCORE, "model": "kind"}, multi(a=GRADER)])
def test_a_grader_that_asks_a_model_of_this_server_is_taken(
    world: World, grader: dict[str, Any]
) -> None:
    job = world.create(training_file=world.prompts, method=reinforcement(grader))
    assert job["status"] == "queued"


@pytest.mark.parametrize("grader", [GRADER, multi(a=GRADER)])
def test_a_misspelt_name_of_an_item_is_told_when_the_job_is_made(
    world: World, grader: dict[str, Any]
) -> None:
    text = json.dumps(grader).replace("item.", "item.x")
    status, error = world.refused(
        training_file=world.prompts, method=reinforcement(json.loads(text))
    )
    assert (status, error["param"]) == (400, OWN)
    assert "no row of" in error["message"]
    assert "item.x" in error["message"]
    assert world.create(training_file=world.prompts, method=reinforcement(grader))["id"]


def test_a_reward_model_cannot_be_tuned(world: World) -> None:
    status, error = world.refused(model="kind")
    assert (status, error["param"], error["code"]) == (400, "model", "model_not_available")
    assert "scores text and writes none" in error["message"]


def test_a_python_grader_of_a_gate_can_be_forbidden_too(world: World) -> None:
    method = {"type": "supervised", "preftune": gate(PYTHON)}
    status, error = world.refused(validation_file=world.chats, method=method)
    assert (status, error["code"]) == (403, "python_graders_off")


@pytest.mark.parametrize(
    ("method", "param", "words"),
    [
        (dpo({"loss": "ipo"}, beta=0.1), "method.dpo.hyperparameters.beta", "beta changes nothing"),
        (dpo({"loss": "ipo", "label": "soft"}), "method.preftune", "label soft changes nothing"),
        (dpo({"tau": 0.1}), "method.preftune", "tau changes nothing in loss sigmoid"),
        (dpo({"lora_rank": 10**400}), "method.preftune", "lora_rank"),
    ],
)
def test_settings_that_the_loss_does_not_read_are_refused(
    world: World, method: dict[str, Any], param: str, words: str
) -> None:
    status, error = world.refused(training_file=world.pairs, method=method)
    assert (status, error["param"]) == (400, param)
    assert words in error["message"]


def test_a_bad_validation_file_is_called_one(world: World) -> None:
    bad = world.put(jsonl(CHAT_ROW, 10) + b'{"messages": [{"role": "user", "content": "x"}]}\n')
    message = world.refused(training_file=bad)[1]["message"]
    assert message.startswith("Example 11")
    assert world.refused(validation_file=bad)[1]["message"] == (
        f"The validation file has problems. {message}"
    )


def test_rows_that_nothing_is_learnt_from_are_named_with_their_line(world: World) -> None:
    asked, told = CHAT_ROW["messages"]
    silent = jsonl({"messages": [asked, {**told, "weight": 0}]}, 1)
    status, error = world.refused(training_file=world.put(jsonl(CHAT_ROW) + silent))
    assert (status, error["code"]) == (400, "invalid_training_file")
    assert "Example 11 (line 11 of rows.jsonl)" in error["message"]
    assert "weight 0" in error["message"]


def test_one_project_does_not_fill_the_queue_of_another(tmp_path: Path) -> None:
    with open_world(tmp_path, max_queued=1) as other:
        first = other.create()["id"]
        full = other.client.post(JOBS, json={"model": "tiny", "training_file": other.chats})
        assert refused(full, 429)["code"] == "queue_full"
        api = other.api
        theirs = put_file(api.database, api.other_id, jsonl(CHAT_ROW))
        body = {"model": "tiny", "training_file": theirs}
        second = api.stranger().post(JOBS, json=body)
        assert second.status_code == 200, second.text
        write = api.database.write
        taken = [write(lambda db: job_leases.claim(db, owner="t", lease_s=60)) for _ in range(2)]
        assert [job and job.id for job in taken] == [first, second.json()["id"]]
