"""The tour's middle: jobs from their making to their result file."""

import csv
import io
import math
import time
from typing import Any

from tests.tour.touring import (
    LN_2,
    PATIENCE_S,
    Tour,
    check,
    check_newest,
    check_once,
    refused,
    same,
)

GRADER = {
    "type": "string_check",
    "name": "match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "ilike",
}


def dpo(**numbers: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": numbers}}


def metrics(tour: Tour, job_id: str) -> list[dict[str, Any]]:
    """The data of all steps, the first first."""
    events = list(tour.client.fine_tuning.jobs.list_events(job_id, limit=100))
    return [event.data for event in reversed(events) if event.type == "metrics"]


def result(tour: Tour, job_id: str) -> list[dict[str, str]]:
    """The rows of the result file."""
    (file_id,) = tour.client.fine_tuning.jobs.retrieve(job_id).result_files
    text = tour.client.files.content(file_id).content.decode()
    return list(csv.DictReader(io.StringIO(text)))


@check
def a_supervised_job_is_made(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(
        model="tiny",
        training_file=tour.uploaded("sft"),
        validation_file=tour.uploaded("sft"),
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}},
        },
        suffix="first",
        seed=5,
        metadata={"tour": "sft", "empty": ""},
    )
    assert job.id.startswith("ftjob-")
    same((job.object, job.model, job.seed), ("fine_tuning.job", "tiny", 5))
    assert job.status in ("validating_files", "queued", "running"), job.status
    same((job.fine_tuned_model, job.finished_at, job.error), (None, None, None))
    same((job.result_files, job.metadata), ([], {"tour": "sft", "empty": ""}))
    same((job.method.type, job.method.supervised.hyperparameters.n_epochs), ("supervised", 2))
    assert isinstance(job.organization_id, str)
    tour.story["sft_job"] = job.id


@check
def a_supervised_job_succeeds(tour: Tour) -> None:
    job = tour.until(tour.story["sft_job"], "succeeded")
    same(job.fine_tuned_model.split(":")[:4], ["ft", "tiny", "preftune", "first"])
    same(len(job.fine_tuned_model.split(":")[4]), 8)
    assert job.finished_at >= job.created_at
    assert job.trained_tokens > 0
    same(job.hyperparameters.n_epochs, 2)
    assert isinstance(job.hyperparameters.learning_rate_multiplier, int | float)
    tour.story["sft_model"] = job.fine_tuned_model


@check
def a_supervised_job_tells_each_step_once(tour: Tour) -> None:
    steps = metrics(tour, tour.story["sft_job"])
    same([step["step"] for step in steps], [1, 2, 3, 4, 5, 6])  # ceil(12 / 4) in each of 2 epochs
    assert all(step["total_steps"] == 6 for step in steps)
    for step in steps:
        assert 0 < step["train_loss"] < 20
        assert 0 <= step["train_mean_token_accuracy"] <= 1
    assert any(step.get("full_valid_loss") is not None for step in steps)


@check
def a_supervised_result_file_has_a_row_for_each_step(tour: Tour) -> None:
    rows = result(tour, tour.story["sft_job"])
    steps = metrics(tour, tour.story["sft_job"])
    names = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    same(list(rows[0])[:5], names)
    same([int(row["step"]) for row in rows], [step["step"] for step in steps])
    same([float(row["train_loss"]) for row in rows], [step["train_loss"] for step in steps])


@check
def the_result_file_is_one_of_the_files(tour: Tour) -> None:
    (file_id,) = tour.client.fine_tuning.jobs.retrieve(tour.story["sft_job"]).result_files
    file = tour.client.files.retrieve(file_id)
    same((file.purpose, file.filename), ("fine-tune-results", "step_metrics.csv"))
    assert file_id in {file.id for file in tour.client.files.list(purpose="fine-tune-results")}


@check
def events_tell_the_story_newest_first(tour: Tour) -> None:
    page = tour.client.fine_tuning.jobs.list_events(tour.story["sft_job"])
    first = page.data[0]
    same((first.object, first.level, first.type), ("fine_tuning.job.event", "info", "message"))
    assert first.id.startswith("ftevent-")
    assert "successfully completed" in first.message, first.message
    texts = [event.message for event in page.data]
    assert f"New fine-tuned model created: {tour.story['sft_model']}" in texts, texts
    assert any(text.startswith("Step 6/6: training loss=") for text in texts), texts
    assert texts[-1].startswith("Created fine-tuning job"), texts


@check
def events_come_page_by_page_each_once(tour: Tour) -> None:
    job_id = tour.story["sft_job"]
    paged = [event.id for event in tour.client.fine_tuning.jobs.list_events(job_id, limit=3)]
    whole = [event.id for event in tour.client.fine_tuning.jobs.list_events(job_id, limit=100)]
    same(paged, whole)
    same(len(set(paged)), len(paged))


@check
def checkpoints_are_listed_highest_step_first(tour: Tour) -> None:
    job_id = tour.story["sft_job"]
    page = tour.client.fine_tuning.jobs.checkpoints.list(job_id)
    same([one.step_number for one in page.data], [6, 3])
    last, first = page.data
    assert first.id.startswith("ftckpt_")
    same((first.object, first.fine_tuning_job_id), ("fine_tuning.job.checkpoint", job_id))
    same(last.fine_tuned_model_checkpoint, tour.story["sft_model"])
    assert first.fine_tuned_model_checkpoint.endswith(":ckpt-step-3")
    same(first.metrics.step, 3)
    assert first.metrics.train_loss > 0
    tour.story["sft_checkpoint"] = first.fine_tuned_model_checkpoint


@check
def checkpoints_come_page_by_page(tour: Tour) -> None:
    found = tour.client.fine_tuning.jobs.checkpoints.list(tour.story["sft_job"], limit=1)
    same([one.step_number for one in found], [6, 3])


@check_once
def the_snippet_of_a_hosted_service_runs_word_for_word(tour: Tour) -> None:
    client, model = tour.client, tour.story["sft_model"]
    training, validation = tour.uploaded("dpo"), tour.uploaded("dpo_validation")
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=training,
        validation_file=validation,
        method={
            "type": "dpo",
            "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.1, "batch_size": 8}},
        },
    )
    same((job.model, job.method.dpo.hyperparameters.beta), (model, 0.1))
    assert 0 <= job.seed < 2**31
    tour.story.update(dpo_job=job.id, dpo_seed=job.seed)


@check_newest
def a_second_job_with_the_same_seed_waits_beside_it(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(
        model=tour.story["sft_model"],
        training_file=tour.uploaded("dpo"),
        validation_file=tour.uploaded("dpo_validation"),
        method=dpo(n_epochs=2, beta=0.1, batch_size=8),
        seed=tour.story["dpo_seed"],
        suffix="again",
        metadata={"tour": "again"},
    )
    tour.story["again_job"] = job.id


@check_once
def events_come_while_a_job_runs(tour: Tour) -> None:
    job_id = tour.story["dpo_job"]
    tour.until(job_id, "running", "succeeded")
    texts = [event.message for event in tour.client.fine_tuning.jobs.list_events(job_id)]
    assert "Fine-tuning job started" in texts, texts


@check_once
def preference_training_begins_at_ln_2(tour: Tour) -> None:
    job = tour.until(tour.story["dpo_job"], "succeeded")
    tour.story["dpo_model"] = job.fine_tuned_model
    first = metrics(tour, job.id)[0]
    assert math.isclose(first["train_loss"], LN_2, abs_tol=1e-4), first["train_loss"]
    same((first["train_reward_margin"], first["train_kl"]), (0.0, 0.0))


@check_once
def a_job_on_a_tuned_model_keeps_the_name_of_its_base(tour: Tour) -> None:
    same(tour.story["dpo_model"].split(":")[:4], ["ft", "tiny", "preftune", ""])
    assert tour.story["dpo_model"] != tour.story["sft_model"]


@check_once
def preference_training_shows_its_curves(tour: Tour) -> None:
    steps = metrics(tour, tour.story["dpo_job"])
    same([step["step"] for step in steps], [1, 2, 3, 4])
    wanted = ("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward")
    more = (
        "chosen_logps",
        "rejected_logps",
        "kl",
        "chosen_length_tokens",
        "rejected_length_tokens",
    )
    for step in steps:
        missing = [name for name in (*wanted, *more) if f"train_{name}" not in step]
        assert not missing, missing
    last = [step for step in steps if step.get("full_valid_loss") is not None]
    assert last, "no step has full_valid_loss"
    assert "full_valid_reward_accuracy" in last[-1]


@check_once
def a_preference_result_file_equals_the_events(tour: Tour) -> None:
    rows, steps = (read(tour, tour.story["dpo_job"]) for read in (result, metrics))
    same(list(rows[0])[:4], ["step", "train_loss", "valid_loss", "full_valid_loss"])
    for row, step in zip(rows, steps, strict=True):
        for name, text in row.items():
            value = step.get(name)
            same(None if text == "" else float(text), None if value is None else float(value))


@check_newest
def the_same_seed_gives_the_same_losses(tour: Tour) -> None:
    tour.until(tour.story["again_job"], "succeeded")
    first, again = (metrics(tour, tour.story[name]) for name in ("dpo_job", "again_job"))
    same([step["train_loss"] for step in again], [step["train_loss"] for step in first])


@check_once
def a_reinforcement_job_succeeds(tour: Tour) -> None:
    numbers = {"n_epochs": 1, "batch_size": 4}
    part = {"grader": GRADER, "hyperparameters": numbers}
    extras = {"max_new_tokens": 12, "samples": 4}
    job = tour.client.fine_tuning.jobs.create(
        model=tour.story["sft_model"],
        training_file=tour.uploaded("rft"),
        validation_file=tour.uploaded("rft"),
        method={"type": "reinforcement", "reinforcement": part, "preftune": extras},
        seed=1,
        metadata={"tour": "rft"},
    )
    same(job.method.reinforcement.grader.operation, "ilike")
    job = tour.until(job.id, "succeeded")
    steps = metrics(tour, job.id)
    same([step["step"] for step in steps], [1, 2, 3])
    for step in steps:
        assert 0 <= step["train_mean_reward"] <= 1
        assert step["completion_tokens_mean"] <= 12


@check_newest
def a_long_job_runs(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(
        model="tiny",
        training_file=tour.uploaded("dpo"),
        method={**dpo(n_epochs=50, batch_size=1), "preftune": {"save_every": 5}},
        metadata={"tour": "long"},
    )
    tour.story["long_job"] = job.id
    tour.until(job.id, "running")
    while not metrics(tour, job.id):
        tour.until(job.id, "running")


@check_newest
def a_running_job_is_not_resumed(tour: Tour) -> None:
    job_id = tour.story["long_job"]
    refused(tour, lambda: tour.client.fine_tuning.jobs.resume(job_id), says="running")


@check_newest
def a_running_job_is_paused(tour: Tour) -> None:
    job_id = tour.story["long_job"]
    same(tour.lenient.fine_tuning.jobs.pause(job_id).status, "paused")
    steps = metrics(tour, job_id)
    assert len(steps) < 600, "it had ended"
    tour.story["paused_steps"] = steps


@check_newest
def a_paused_job_left_a_checkpoint_that_answers(tour: Tour) -> None:
    page = tour.client.fine_tuning.jobs.checkpoints.list(tour.story["long_job"])
    same(page.data[0].step_number, len(tour.story["paused_steps"]))
    assert tour.chat(page.data[0].fine_tuned_model_checkpoint).choices


@check_newest
def a_paused_job_is_not_paused_again(tour: Tour) -> None:
    job_id = tour.story["long_job"]
    refused(tour, lambda: tour.client.fine_tuning.jobs.pause(job_id), says="paused")


@check_newest
def a_resumed_job_goes_on_with_its_next_step(tour: Tour) -> None:
    job_id, before = tour.story["long_job"], tour.story["paused_steps"]
    assert tour.lenient.fine_tuning.jobs.resume(job_id).status in ("queued", "running")
    while len(steps := metrics(tour, job_id)) <= len(before):
        tour.until(job_id, "queued", "running")
    same(steps[: len(before)], before)
    same([step["step"] for step in steps], list(range(1, len(steps) + 1)))


@check_newest
def a_running_job_is_cancelled_at_once(tour: Tour) -> None:
    job_id = tour.story["long_job"]
    job = tour.client.fine_tuning.jobs.cancel(job_id)
    same(job.status, "cancelled")
    assert job.finished_at >= job.created_at
    steps = len(metrics(tour, job_id))
    same(len(metrics(tour, job_id)), steps)


@check
def a_job_that_has_ended_never_changes(tour: Tour) -> None:
    job_id = tour.story["sft_job"]
    before = tour.client.fine_tuning.jobs.retrieve(job_id)
    for ask in ("cancel", "pause", "resume"):
        refused(tour, lambda ask=ask: getattr(tour.client.fine_tuning.jobs, ask)(job_id))  # type: ignore[misc]  # a default binds the loop's value
    same(tour.client.fine_tuning.jobs.retrieve(job_id), before)


@check
def a_job_is_paused_before_it_begins_and_cancelled(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(model="tiny", training_file=tour.uploaded("sft"))
    same(job.method.type, "supervised")
    jobs = tour.lenient.fine_tuning.jobs
    assert jobs.pause(job.id).status in ("paused", "running", "queued")
    same(jobs.cancel(job.id).status, "cancelled")
    same(jobs.retrieve(job.id).fine_tuned_model, None)


@check_once
def a_paused_job_is_resumed(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(model="tiny", training_file=tour.uploaded("sft"))
    jobs = tour.lenient.fine_tuning.jobs
    jobs.pause(job.id)
    until = time.monotonic() + PATIENCE_S
    while jobs.retrieve(job.id).status != "paused" and time.monotonic() < until:
        time.sleep(0.2)
    assert jobs.resume(job.id).status in ("queued", "running")
    same(jobs.cancel(job.id).status, "cancelled")


@check
def jobs_are_listed_newest_first_page_by_page(tour: Tour) -> None:
    listed = [job.id for job in tour.client.fine_tuning.jobs.list(limit=1)]
    same(listed, [job.id for job in tour.client.fine_tuning.jobs.list(limit=100)])
    assert tour.story["sft_job"] in listed
    same(len(listed), len(set(listed)))


@check
def jobs_are_found_by_metadata(tour: Tour) -> None:
    jobs = tour.client.fine_tuning.jobs
    assert tour.story["sft_job"] in [job.id for job in jobs.list(metadata={"tour": "sft"})]
    found = [job.id for job in jobs.list(metadata={"tour": "sft", "empty": ""})]
    assert tour.story["sft_job"] in found
    same([job.id for job in jobs.list(metadata={"tour": "sft", "empty": "no"})], [])


@check
def jobs_without_metadata_are_found(tour: Tour) -> None:
    found = list(tour.client.fine_tuning.jobs.list(extra_query={"metadata": "null"}, limit=100))
    assert found
    assert all(not job.metadata for job in found)


@check
def hyperparameters_in_the_old_place_are_taken(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(
        model="tiny", training_file=tour.uploaded("sft"), hyperparameters={"n_epochs": 1}
    )
    same(job.hyperparameters.n_epochs, 1)
    tour.client.fine_tuning.jobs.cancel(job.id)


@check
def nulls_are_the_same_as_fields_left_out(tour: Tour) -> None:
    job = tour.client.fine_tuning.jobs.create(
        model="tiny",
        training_file=tour.uploaded("sft"),
        validation_file=None,
        seed=None,
        suffix=None,
        metadata=None,
        integrations=None,
    )
    same((job.validation_file, job.metadata), (None, None))
    tour.client.fine_tuning.jobs.cancel(job.id)


@check
def an_idempotency_key_makes_one_job(tour: Tour) -> None:
    def make(epochs: int) -> Any:
        return tour.client.fine_tuning.jobs.create(
            model="tiny",
            training_file=tour.uploaded("sft"),
            hyperparameters={"n_epochs": epochs},
            extra_headers={"Idempotency-Key": f"once-{tour.story['sft_job']}"},
        )

    first = make(1)
    same(make(1).id, first.id)
    refused(tour, lambda: make(2), code="idempotency_key_reused")
    tour.client.fine_tuning.jobs.cancel(first.id)
