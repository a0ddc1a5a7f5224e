"""Jobs over HTTP: what is taken, what is refused and how, and what a job says of itself."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from tests.api import jobs_world
from tests.api.conftest import refused
from tests.api.jobs_world import CHAT_ROW, JOBS, PAIR_ROW, World, jsonl, open_world

world = jobs_world.world
CHECK = {"type": "string_check", "name": "c", "operation": "eq"}
GRADER = {**CHECK, "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1.0"}


@pytest.fixture(autouse=True)
def nothing_waits(world: World) -> Iterator[None]:
    yield
    world.cancel_all()


def dpo(**numbers: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": numbers}}


def supervised(**numbers: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": numbers}}


def reinforcement(**part: Any) -> dict[str, Any]:
    return {"type": "reinforcement", "reinforcement": part}


def test_a_job_with_nothing_but_what_is_needed_is_supervised_and_all_auto(world: World) -> None:
    job = world.create()
    FineTuningJob.model_validate(job)
    assert job["id"].startswith("ftjob-")
    assert (job["object"], job["status"], job["model"]) == ("fine_tuning.job", "queued", "tiny")
    assert job["hyperparameters"] == dict.fromkeys(
        ("n_epochs", "batch_size", "learning_rate_multiplier"), "auto"
    )
    assert job["method"] == supervised(**job["hyperparameters"])
    assert 0 <= job["seed"] < 2**31
    assert abs(job["created_at"] - time.time()) < 5
    empty = ("finished_at", "fine_tuned_model", "trained_tokens", "error", "metadata")
    assert [job[name] for name in empty] == [None] * 5
    assert job["result_files"] == []
    assert world.client.get(f"{JOBS}/{job['id']}").json() == job


def test_the_usual_script_is_taken_word_for_word(world: World) -> None:
    method = {
        "type": "dpo",
        "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.1, "batch_size": 8}},
    }
    asked = {"training_file": world.pairs, "validation_file": world.pairs, "method": method}
    job = world.create(**asked, suffix="care-desk v2", seed=0, metadata={"team": "care"})
    FineTuningJob.model_validate(job)
    assert job["method"]["dpo"]["hyperparameters"] == {
        "n_epochs": 2,
        "beta": 0.1,
        "batch_size": 8,
        "learning_rate_multiplier": "auto",
    }
    assert job["hyperparameters"]["n_epochs"] == 2
    assert (job["seed"], job["metadata"]) == (0, {"team": "care"})
    assert job["user_provided_suffix"] == "care-desk v2"


def test_the_old_place_of_hyperparameters_and_nulls_are_taken(world: World) -> None:
    nulls = dict.fromkeys(("seed", "suffix", "validation_file", "metadata", "method"))
    job = world.create(hyperparameters={"n_epochs": 3, "batch_size": "auto"}, **nulls)
    assert job["method"]["supervised"]["hyperparameters"]["n_epochs"] == 3
    assert world.create(method={**supervised(n_epochs=2), "beta": None})["method"]


def test_a_reinforcement_job_keeps_its_grader_and_every_number(world: World) -> None:
    numbers = {"compute_multiplier": 0.5, "eval_interval": 3, "eval_samples": 2}
    method = reinforcement(grader=GRADER, hyperparameters={**numbers, "reasoning_effort": "low"})
    job = world.create(training_file=world.prompts, method=method)
    FineTuningJob.model_validate(job)
    part = job["method"]["reinforcement"]
    assert part["grader"] == GRADER
    assert numbers.items() <= part["hyperparameters"].items()
    told = world.client.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert any("reasoning_effort" in event["message"] for event in told)


def test_integrations_are_kept_and_said_to_do_nothing(world: World) -> None:
    wandb = [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}]
    job = world.create(integrations=wandb)
    assert job["integrations"] == wandb
    told = world.client.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert [e["level"] for e in told if "integrations" in e["message"]] == ["warn"]


def test_an_extension_is_kept_with_the_method(world: World) -> None:
    extra = {"loss": "hinge", "lora_rank": 8}
    job = world.create(training_file=world.pairs, method={**dpo(beta=0.2), "preftune": extra})
    assert job["method"]["preftune"] == extra


NUMBERS = "method.supervised.hyperparameters"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ...}, "model", "Missing"),
    ({"training_file": ...}, "training_file", "Missing"),
    ({"training_file": None}, "training_file", "Missing"),
    ({"model": "gpt-4.1"}, "model", "not available"),
    ({"model": "../../etc/passwd"}, "model", "not available"),
    ({"model": 5}, "model", "string"),
    ({"training_file": "file-unknown"}, "training_file", "No such File object: file-unknown"),
    ({"validation_file": "file-unknown"}, "validation_file", "No such File object"),
    ({"training_fil": "x"}, "training_fil", "Did you mean 'training_file'?"),
    ({"suffix": ""}, "suffix", "at least 1"),
    ({"suffix": "x" * 65}, "suffix", "at most 64"),
    ({"suffix": "a:b"}, "suffix", "letters"),
    ({"suffix": "../x"}, "suffix", "letters"),
    ({"suffix": "  "}, "suffix", "single blanks"),
    ({"suffix": " x"}, "suffix", "single blanks"),
    ({"suffix": "x  y"}, "suffix", "single blanks"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**31}, "seed", "less than or equal"),
    ({"seed": True}, "seed", "integer"),
    ({"seed": 1.5}, "seed", "integer"),
    ({"metadata": {"k" * 65: "v"}}, "metadata", "at most 64"),
    ({"metadata": {"k": "v" * 513}}, "metadata", "at most 512"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "at most 16"),
    ({"metadata": {"k": 1}}, "metadata", "string"),
    ({"integrations": [{"type": "mlflow"}]}, "integrations.0", "wandb"),
    ({"method": {}}, "method.type", "Missing"),
    ({"method": {"type": "ppo"}}, "method.type", "supervised"),
    ({"method": supervised(n_epoch=3)}, f"{NUMBERS}.n_epoch", "Did you mean 'n_epochs'?"),
    ({"method": supervised(beta=0.1)}, f"{NUMBERS}.beta", "Unknown"),
    ({"method": supervised(n_epochs=0)}, f"{NUMBERS}.n_epochs", "from 1 to 50"),
    ({"method": supervised(n_epochs=51)}, f"{NUMBERS}.n_epochs", "from 1 to 50"),
    ({"method": supervised(n_epochs=2.5)}, f"{NUMBERS}.n_epochs", "whole number"),
    ({"method": supervised(n_epochs=True)}, f"{NUMBERS}.n_epochs", "whole number"),
    ({"method": supervised(n_epochs="many")}, f"{NUMBERS}.n_epochs", "or 'auto'"),
    ({"method": supervised(batch_size=257)}, f"{NUMBERS}.batch_size", "from 1 to 256"),
    (
        {"method": supervised(learning_rate_multiplier=0)},
        f"{NUMBERS}.learning_rate_multiplier",
        "above 0",
    ),
    *(
        ({"method": supervised(**{name: 10**400})}, f"{NUMBERS}.{name}", "or 'auto'")
        for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
    ),
    (
        {"method": reinforcement(grader=GRADER, hyperparameters={"eval_interval": -(10**400)})},
        "method.reinforcement.hyperparameters.eval_interval",
        "or 'auto'",
    ),
    ({"method": dpo(beta=0)}, "method.dpo.hyperparameters.beta", "above 0"),
    ({"method": dpo(beta=2.01)}, "method.dpo.hyperparameters.beta", "up to 2"),
    ({"method": {"type": "dpo", "dpo": {"beta": 0.1}}}, "method.dpo.beta", "hyperparameters"),
    ({"method": {"type": "dpo", "beta": 0.1}}, "method.beta", "hyperparameters"),
    ({"method": {"type": "dpo", "dpo": {"l2_multiplier": 1}}}, "method.dpo.l2_multiplier", "Unkno"),
    ({"prompt_loss_weight": 0.1}, "prompt_loss_weight", "Unknown"),
    ({"method": dpo(), "hyperparameters": {}}, "hyperparameters", "method.dpo.hyperparameters"),
    ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised", "does not go with"),
    ({"method": {"type": "reinforcement"}}, "method", "needs a grader"),
    ({"method": reinforcement()}, "method.reinforcement.grader", "Missing"),
    (
        {"method": reinforcement(grader=GRADER, hyperparameters={"compute_multiplier": 1e-5})},
        "method.reinforcement.hyperparameters.compute_multiplier",
        "above 1e-05 and up to 10",
    ),
    (
        {"method": reinforcement(grader={"type": "string_chek", "name": "x"})},
        "method.reinforcement.grader",
        "no grader",
    ),
    (
        {"method": reinforcement(grader=GRADER, response_format={"type": "json_schema"})},
        "method.reinforcement.response_format",
        "not held to a format",
    ),
    ({"method": {**dpo(), "preftune": {"los": "ipo"}}}, "method.preftune", "Did you mean 'loss'?"),
    ({"method": {**dpo(), "preftune": {"loss": "ipoo"}}}, "method.preftune", "ipo"),
]


@pytest.mark.parametrize(
    ("body", "param", "words"), REFUSED, ids=[f"{n}-{case[1]}" for n, case in enumerate(REFUSED)]
)
def test_what_is_wrong_is_refused_by_name(
    world: World, body: dict[str, Any], param: str, words: str
) -> None:
    status, error = world.refused(**body)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith(param)
    assert words in error["message"]


def test_numbers_that_are_no_json_numbers_are_refused(world: World) -> None:
    text = json.dumps({"model": "tiny", "training_file": world.chats, "method": dpo(beta=1)})
    for bad in ("NaN", "Infinity", "1e999"):
        body = text.replace('"beta": 1', f'"beta": {bad}')
        assert refused(world.client.post(JOBS, content=body), 400)


def test_files_of_others_of_another_purpose_or_deleted_are_refused(world: World) -> None:
    other = world.put(jsonl(CHAT_ROW), purpose="batch")
    status, error = world.refused(training_file=other)
    assert (status, error["param"], "batch" in error["message"]) == (400, "training_file", True)
    gone = world.put(jsonl(CHAT_ROW))
    assert world.client.delete(f"/v1/files/{gone}").status_code == 200
    assert world.refused(validation_file=gone)[1]["param"] == "validation_file"
    stranger = world.api.stranger()
    sent = {"model": "tiny", "training_file": world.chats}
    assert refused(stranger.post(JOBS, json=sent), 400)["param"] == "training_file"


def test_rows_of_small_files_are_checked_with_their_line(world: World) -> None:
    bad = jsonl(CHAT_ROW, 10) + b'{"messages": [{"role": "user", "content": "x"}]}\n'
    status, error = world.refused(training_file=world.put(bad))
    assert (status, error["code"]) == (400, "invalid_training_file")
    assert "Example 11" in error["message"]
    assert "line 11" in error["message"]
    status, error = world.refused(validation_file=world.put(bad))
    assert (error["code"], error["param"]) == ("invalid_validation_file", "validation_file")


def test_too_few_rows_are_counted_and_validation_may_have_fewer(world: World) -> None:
    few = world.put(jsonl(CHAT_ROW, 7))
    status, error = world.refused(training_file=few)
    assert (status, error["code"]) == (400, "invalid_n_examples")
    assert "has 7 example(s), but must have at least 10" in error["message"]
    assert world.create(validation_file=few)["validation_file"] == few


def test_rows_of_another_method_are_told(world: World) -> None:
    for file, method in ((world.pairs, supervised()), (world.chats, dpo())):
        status, error = world.refused(training_file=file, method=method)
        assert (status, error["param"]) == (400, "training_file")
        assert method["type"] in error["message"]


def test_large_files_are_left_to_the_worker(tmp_path: Path) -> None:
    with open_world(tmp_path, check_kib=0) as other:
        job = other.create(training_file=other.put(b"{}\n"))
        assert job["status"] == "validating_files"


def test_python_graders_can_be_forbidden(tmp_path: Path) -> None:
    with open_world(tmp_path, python_graders=False) as other:
        multi = {
            "type": "multi",
            "name": "m",
            "graders": {"a": GRADER, "p": PYTHON},
            "calculate_output": "a + p",
        }
        for grader in (PYTHON, multi):
            method = reinforcement(grader=grader)
            status, error = other.refused(training_file=other.prompts, method=method)
            assert (status, error["code"]) == (403, "python_graders_off")


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with open_world(tmp_path, max_queued=2) as other:
        jobs = [other.create()["id"] for _ in range(2)]
        full = other.client.post(JOBS, json={"model": "tiny", "training_file": other.chats})
        assert refused(full, 429)["code"] == "queue_full"
        assert int(full.headers["retry-after"]) > 0
        other.client.post(f"{JOBS}/{jobs[0]}/cancel")
        assert other.create()["status"] == "queued"


def test_a_request_sent_twice_under_one_key_makes_one_job(world: World) -> None:
    body = {"model": "tiny", "training_file": world.chats, "seed": 3}
    headers = {"Idempotency-Key": "a-key-of-the-client"}
    first, second = (world.client.post(JOBS, json=body, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    other = world.client.post(JOBS, json={**body, "seed": 4}, headers=headers)
    assert refused(other, 400)["code"] == "idempotency_key_reused"


def test_lists_page_stably_newest_first(tmp_path: Path) -> None:
    with open_world(tmp_path) as other:
        made = [other.create()["id"] for _ in range(5)]
        page = other.client.get(JOBS, params={"limit": 2}).json()
        assert (page["object"], page["has_more"]) == ("list", True)
        ids = [job["id"] for job in page["data"]]
        newer = other.create()["id"]
        while page["has_more"]:
            page = other.client.get(JOBS, params={"limit": 2, "after": ids[-1]}).json()
            ids += [job["id"] for job in page["data"]]
        assert ids == made[::-1]
        assert other.client.get(JOBS).json()["data"][0]["id"] == newer
        bad = other.client.get(JOBS, params={"after": "ftjob-unknown"})
        assert refused(bad, 400)["param"] == "after"
        assert refused(other.client.get(JOBS, params={"limit": 0}), 400)["param"] == "limit"


def test_lists_are_filtered_by_metadata(tmp_path: Path) -> None:
    with open_world(tmp_path) as other:
        red = other.create(metadata={"colour": "red", "size": ""})["id"]
        blue = other.create(metadata={"colour": "blue"})["id"]
        none = other.create()["id"]

        def found(query: str) -> list[str]:
            return [job["id"] for job in other.client.get(f"{JOBS}?{query}").json()["data"]]

        assert found("metadata%5Bcolour%5D=red") == [red]
        assert found("metadata[colour]=red&metadata[size]=") == [red]
        assert found("metadata[colour]=red&metadata[size]=1") == []
        assert found("metadata=null") == [none]
        assert found("") == [none, blue, red]
        assert refused(other.client.get(f"{JOBS}?metadata=red"), 400)["param"] == "metadata"


def test_a_waiting_job_is_paused_resumed_and_cancelled_at_once(world: World) -> None:
    job_id = world.create()["id"]

    def ask(what: str) -> tuple[int, str]:
        answer = world.client.post(
            f"{JOBS}/{job_id}/{what}", headers={"Content-Type": "application/json"}
        )
        return answer.status_code, answer.json().get("status", "")

    assert ask("resume") == (400, "")
    assert ask("pause") == (200, "paused")
    assert ask("pause") == (400, "")
    assert ask("resume") == (200, "queued")
    assert ask("cancel") == (200, "cancelled")
    assert [ask(what) for what in ("cancel", "pause", "resume")] == [(400, "")] * 3
    assert world.client.get(f"{JOBS}/{job_id}").json()["finished_at"] is not None


def test_another_projects_job_is_like_none(world: World) -> None:
    job_id = world.create()["id"]
    stranger = world.api.stranger()
    for client, name in ((stranger, job_id), (world.client, "ftjob-none")):
        for method, path in (
            ("GET", ""),
            ("POST", "/cancel"),
            ("POST", "/pause"),
            ("POST", "/resume"),
            ("GET", "/events"),
            ("GET", "/checkpoints"),
        ):
            error = refused(client.request(method, f"{JOBS}/{name}{path}"), 404)
            assert error["message"] == f"Could not find fine tune: {name}"
            assert (error["param"], error["code"]) == ("fine_tune_id", "fine_tune_not_found")
    assert stranger.get(JOBS).json()["data"] == []


def test_scopes_bound_what_a_key_may_do(world: World) -> None:
    reader = world.api.client(scopes=("jobs:read",))
    assert reader.get(JOBS).status_code == 200
    sent = {"model": "tiny", "training_file": world.chats}
    assert refused(reader.post(JOBS, json=sent), 403)["code"] == "missing_scope"
    other = world.api.client(scopes=("files:write",))
    assert refused(other.get(JOBS), 403)


def test_history_and_checkpoints_have_the_clients_shape(world: World) -> None:
    job_id = world.create()["id"]
    fence = world.claim(job_id)
    numbers = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0}
    world.worker(job_id, "started", fence=fence, hyperparameters=numbers, total_steps=4)
    for step in (1, 2, 3, 4):
        event = {
            "key": f"step-{step}",
            "message": f"Step {step}/4",
            "type": "metrics",
            "data": {"step": step, "train_loss": 0.5},
            "created_s": time.time(),
        }
        assert world.worker(job_id, "events", fence=fence, events=[event]).status_code == 200
        if step % 2 == 0:
            model = world.leave_model(job_id, fence, f"models/step-{step}")
            metrics = {"train_loss": 0.5}
            world.worker(job_id, "checkpoint", fence=fence, step=step, **model, metrics=metrics)
    job = world.client.get(f"{JOBS}/{job_id}").json()
    FineTuningJob.model_validate(job)
    assert (job["status"], job["hyperparameters"]) == ("running", numbers)
    assert job["method"] == supervised(**numbers)
    history = world.client.get(f"{JOBS}/{job_id}/events").json()["data"]
    assert [FineTuningJobEvent.model_validate(event).object for event in history]
    assert "Created" in history[-1]["message"]
    steps = [event["data"]["step"] for event in history if event["type"] == "metrics"]
    assert steps == [4, 3, 2, 1]
    page = world.client.get(f"{JOBS}/{job_id}/checkpoints", params={"limit": 1}).json()
    first = FineTuningJobCheckpoint.model_validate(page["data"][0])
    assert (first.step_number, page["has_more"], page["first_id"]) == (4, True, first.id)
    assert first.fine_tuned_model_checkpoint.endswith(":ckpt-step-4")
    rest = world.client.get(f"{JOBS}/{job_id}/checkpoints", params={"after": first.id}).json()
    assert ([one["step_number"] for one in rest["data"]], rest["has_more"]) == ([2], False)


def test_checkpoints_are_shared_with_nobody(world: World) -> None:
    path = "/v1/fine_tuning/checkpoints/ft%3Atiny%3Ao%2Fx%3A%3Aabc/permissions"
    body = {"project_ids": ["proj"]}
    for answer in (
        world.client.get(path),
        world.client.post(path, json=body),
        world.client.delete(f"{path}/cp_1"),
    ):
        assert "one organisation" in refused(answer, 403)["message"]


def test_pairs_of_several_turns_are_taken(world: World) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And?"},
    ]
    file = world.put(jsonl({**PAIR_ROW, "input": {"messages": turns}}))
    assert world.create(training_file=file, method=dpo())["status"] == "queued"
