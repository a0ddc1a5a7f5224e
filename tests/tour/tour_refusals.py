"""What jobs and requests are refused for, each with the class and the words of the contract."""

from typing import Any

from tests.tour.tour_jobs import GRADER, dpo
from tests.tour.touring import Tour, check, refused


def make(tour: Tour, **given: Any) -> Any:
    asked = {"model": "tiny", "training_file": tour.uploaded("dpo"), "method": dpo()}
    return tour.client.fine_tuning.jobs.create(**{**asked, **given})


@check
def an_unknown_model_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, model="none"), param="model", code="model_not_available")


@check
def an_unknown_training_file_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, training_file="file-none"), param="training_file")


@check
def an_unknown_validation_file_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, validation_file="file-none"), param="validation_file")


@check
def a_file_of_another_purpose_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, training_file=tour.story["other_file"]), param="training_file")


@check
def too_few_rows_are_refused_or_fail_the_job(tour: Tour) -> None:
    few = tour.client.files.create(
        file=("few.jsonl", tour.rows("dpo").read_bytes().splitlines(keepends=True)[0]),
        purpose="fine-tune",
    )
    ends_badly(tour, few.id, "invalid_n_examples", "has 1 example(s), but must have at least 10")


@check
def rows_of_another_method_are_refused_or_fail_the_job(tour: Tour) -> None:
    ends_badly(tour, tour.uploaded("sft"), "invalid_training_file", "dpo")


@check
def a_bad_row_is_named_with_its_line(tour: Tour) -> None:
    lines = tour.rows("dpo").read_bytes().splitlines(keepends=True)
    lines[4] = b'{"input": {"messages": []}}\n'
    bad = tour.client.files.create(file=("bad.jsonl", b"".join(lines)), purpose="fine-tune")
    ends_badly(tour, bad.id, "invalid_training_file", "5")


def ends_badly(tour: Tour, file_id: str, code: str, says: str) -> None:
    """Small files are checked as the job is made, others when it begins: one of the two says no."""
    try:
        job = make(tour, training_file=file_id)
    except tour.openai.BadRequestError as error:
        problem = error.body
    else:
        while job.status not in ("failed", "succeeded"):
            job = tour.client.fine_tuning.jobs.retrieve(job.id)
        problem = {"code": job.error.code, "param": job.error.param, "message": job.error.message}
    assert problem["code"] == code, problem
    assert problem["param"] == "training_file", problem
    assert says in problem["message"], problem


@check
def an_unknown_method_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method={"type": "ppo"}))


@check
def a_method_without_its_type_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method={"dpo": {}}))


@check
def a_misspelt_hyperparameter_is_named_with_the_nearest(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method=dpo(n_epoch=2)), says="n_epochs")


@check
def hyperparameters_one_level_too_high_are_named_with_their_place(tour: Tour) -> None:
    method = {"type": "dpo", "dpo": {"beta": 0.1}}
    refused(tour, lambda: make(tour, method=method), says="hyperparameters")


@check
def a_beta_of_0_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method=dpo(beta=0)), says="0")


@check
def a_beta_above_2_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method=dpo(beta=2.1)))


@check
def a_boolean_is_no_number(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method=dpo(n_epochs=True)))


@check
def numbers_of_epochs_out_of_bounds_are_refused(tour: Tour) -> None:
    for epochs in (0, 51, 1.5):
        refused(tour, lambda n=epochs: make(tour, method=dpo(n_epochs=n)))  # type: ignore[misc]  # a default binds the loop's value


@check
def batches_out_of_bounds_are_refused(tour: Tour) -> None:
    for size in (0, 257):
        refused(tour, lambda n=size: make(tour, method=dpo(batch_size=n)))  # type: ignore[misc]  # a default binds the loop's value


@check
def a_learning_rate_multiplier_of_0_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, method=dpo(learning_rate_multiplier=0)))


@check
def a_long_suffix_is_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, suffix="x" * 65), param="suffix")


@check
def a_seed_out_of_bounds_is_refused(tour: Tour) -> None:
    for seed in (-1, 2**31):
        refused(tour, lambda n=seed: make(tour, seed=n), param="seed")  # type: ignore[misc]  # a default binds the loop's value


@check
def too_much_metadata_is_refused(tour: Tour) -> None:
    for pairs in ({f"k{n}": "v" for n in range(17)}, {"k" * 65: "v"}, {"k": "v" * 513}):
        refused(tour, lambda pairs=pairs: make(tour, metadata=pairs))  # type: ignore[misc]  # a default binds the loop's value


@check
def other_integrations_than_wandb_are_refused(tour: Tour) -> None:
    refused(tour, lambda: make(tour, integrations=[{"type": "mlflow"}]))


@check
def reinforcement_without_a_grader_is_refused(tour: Tour) -> None:
    method = {"type": "reinforcement", "reinforcement": {"hyperparameters": {}}}
    refused(tour, lambda: make(tour, method=method), says="grader")


@check
def an_unknown_extension_is_named_with_the_nearest(tour: Tour) -> None:
    method = {**dpo(), "preftune": {"lora_rnk": 4}}
    refused(tour, lambda: make(tour, method=method), says="lora_rank")


@check
def an_unknown_job_is_not_found(tour: Tour) -> None:
    jobs = tour.client.fine_tuning.jobs
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events):
        refused(
            tour,
            lambda call=call: call("ftjob-none"),  # type: ignore[misc]  # a default binds the loop's value
            "NotFoundError",
            param="fine_tune_id",
            code="fine_tune_not_found",
            says="Could not find fine tune: ftjob-none",
        )


@check
def a_page_behind_an_unknown_job_is_refused(tour: Tour) -> None:
    refused(tour, lambda: tour.client.fine_tuning.jobs.list(after="ftjob-none"), param="after")


@check
def a_wrong_key_is_refused_and_not_quoted(tour: Tour) -> None:
    other = tour.client.with_options(api_key="pft_wrong_wrong_wrong")
    error = refused(tour, other.models.list, "AuthenticationError", code="invalid_api_key")
    assert "wrong_wrong" not in str(error.body)


@check
def an_unknown_route_is_not_found_as_json(tour: Tour) -> None:
    refused(tour, lambda: tour.client.get("/evals", cast_to=object), "NotFoundError")


@check
def permissions_of_checkpoints_are_refused_cleanly(tour: Tour) -> None:
    permissions = tour.client.fine_tuning.checkpoints.permissions
    name = tour.story["sft_checkpoint"]
    refused(tour, lambda: permissions.create(name, project_ids=["p"]), "PermissionDeniedError")
    listing = getattr(permissions, "list", permissions.retrieve)  # its name in 3.x, and in 1.x
    refused(tour, lambda: listing(name), "PermissionDeniedError")
    refused(
        tour,
        lambda: permissions.delete("perm", fine_tuned_model_checkpoint=name),
        "PermissionDeniedError",
    )


@check
def a_grader_is_validated(tour: Tour) -> None:
    got = tour.client.fine_tuning.alpha.graders.validate(grader=GRADER)
    assert got.grader.operation == "ilike", got


@check
def a_grader_is_run(tour: Tour) -> None:
    graders = tour.client.fine_tuning.alpha.graders
    for answer, reward in (("yes", 1.0), ("no", 0.0)):
        got = graders.run(grader=GRADER, model_sample="well YES", item={"answer": answer})
        assert got.reward == reward, got
        assert got.metadata.name == "match"
        assert len(got.metadata.errors.model_dump()) == 14


@check
def a_grader_with_an_unknown_variable_is_named(tour: Tour) -> None:
    graders = tour.client.fine_tuning.alpha.graders
    got = graders.run(grader=GRADER, model_sample="a", item={"other": 1})
    assert got.metadata.errors.invalid_variable_error, got


@check
def a_grader_that_is_none_is_refused(tour: Tour) -> None:
    graders = tour.client.fine_tuning.alpha.graders
    for broken in ({"operation": "near"}, {"reference": None}):
        grader = {name: value for name, value in {**GRADER, **broken}.items() if value is not None}
        refused(tour, lambda grader=grader: graders.validate(grader=grader))  # type: ignore[misc]  # a default binds the loop's value
