"""What `method.preftune` takes, what "auto" becomes, and what errors become."""

from pathlib import Path
from typing import Any

import pytest

from preftune.errors import HealthError, PreftuneError, RowError, SettingsError
from preftune.jobs.auto import learning_rate, resolve, responses
from preftune.jobs.extras import Method, check_extras, names_of
from preftune.jobs.failures import disk_trouble, problem_of
from preftune.jobs.figures import columns, result_csv, step_event
from preftune.wire.job import JobSpec

SPEC = JobSpec(
    job_id="ftjob-1",
    fence=1,
    server="http://127.0.0.1:1",
    folder="/srv/files/jobs/ftjob-1/attempt-1",
    model="/srv/models/m",
    base="/srv/models/m",
    training="/srv/files/blobs/aa/aabb",
    training_name="care.jsonl",
    validation="/srv/files/blobs/cc/ccdd",
    validation_name="held.jsonl",
    method="dpo",
    hyperparameters={},
    seed=0,
)


RULE = {"name": "x", "kind": "no_new_failures", "check": "c", "min_n": 1}


@pytest.mark.parametrize("method", ["supervised", "dpo", "reinforcement"])
def test_no_extra_names_a_path_or_an_address(method: Method) -> None:
    names = names_of(method)
    assert {"learning_rate", "save_every", "gate", "lora_rank"} <= {*names}
    assert not [n for n in names if "url" in n or "data" in n or n in ("out", "model", "grader")]
    check_extras(method, {})


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("dpo", {"los": "ipo"}, "Did you mean 'loss'"),
        ("dpo", {"loss": "0.5*sigmoid + hinj"}, "nearest 'hinge'"),
        ("dpo", {"beta": 0.2}, "unknown field 'beta'"),
        ("dpo", {"lora_rank": -1}, "lora_rank"),
        ("dpo", {"lora_rank": 1025}, "lora_rank"),
        ("dpo", {"lora_rank": 10**400}, "lora_rank is beyond 2^53"),
        ("supervised", {"save_every": 10**400}, "save_every is beyond 2^53"),
        ("supervised", {"gate": {"rules": [{"min_n": -(10**400)}]}}, "gate is beyond 2^53"),
        ("dpo", {"lora_rank": 0, "lora_alpha": 8.0}, "lora_alpha changes nothing"),
        ("dpo", {"label": "offset", "offset_per_strength": "x"}, "offset_per_strength"),
        ("supervised", {"loss": "ipo"}, "unknown field 'loss'"),
        ("reinforcement", {"kl_in": "loss", "kl_estimator": "k1"}, "no gradient"),
        ("supervised", {"learning_rate": 0}, "above 0"),
        ("supervised", {"gate": {}}, "rules is missing"),
        ("supervised", {"gate": {"rules": [{"name": "x", "kind": "no"}]}}, "kind"),
        (
            "supervised",
            {
                "gate": {
                    "rules": [{"name": "x", "kind": "no_new_failures", "check": "c", "min_n": 1}]
                }
            },
            "no check 'c'",
        ),
    ],
)
def test_extras_are_refused_by_name(method: Method, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=r"method\.preftune") as raised:
        check_extras(method, given)
    assert said in str(raised.value)


def test_extras_that_are_right_pass() -> None:
    check_extras(
        "dpo", {"loss": "0.8*sigmoid + 0.2*ipo", "tau": 0.1, "lora_rank": 4, "ref_every": 3}
    )
    check_extras("reinforcement", {"advantage": "grpo", "kl_coef": 0.1, "samples": 8})


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"),
    [(10, 3, 1), (1_000, 3, 2), (1_001, 2, 2), (10_000, 2, 20), (500_000, 1, 256)],
)
def test_auto_becomes_numbers_by_the_rules_of_the_page(rows: int, epochs: int, batch: int) -> None:
    found = resolve("dpo", {"n_epochs": "auto"}, rows=rows)
    assert found == {"n_epochs": epochs, "batch_size": batch, "learning_rate_multiplier": 1.0}
    assert resolve("dpo", {"batch_size": 7}, rows=rows)["batch_size"] == 7


def test_auto_of_reinforcement_looks_once_an_epoch() -> None:
    found = resolve("reinforcement", {}, rows=10)
    assert (found["batch_size"], found["eval_interval"], found["eval_samples"]) == (4, 3, 1)
    assert [responses(m) for m in (1e-4, 1.0, 10.0)] == [2, 4, 40]


def test_learning_rate_follows_multiplier_size_and_method() -> None:
    def rate(**changes: Any) -> float:
        usual: dict[str, Any] = {"multiplier": 1.0, "parameters": 10**9, "all_weights": False}
        return learning_rate("supervised", **(usual | changes))

    assert rate() == 2e-4
    assert rate(multiplier=0.5) == 1e-4
    assert rate(all_weights=True) == pytest.approx(2e-5)
    assert rate(parameters=10**10) == 1e-4


@pytest.mark.parametrize(
    ("error", "code", "param", "message"),
    [
        (
            RowError("training.jsonl", 3, "no messages", "Add some."),
            "invalid_training_file",
            "training_file",
            "care.jsonl:3: no messages. Add some.",
        ),
        (
            RowError(Path("/srv/files/blobs/cc/ccdd"), 1, "bad", "Mend it."),
            "invalid_validation_file",
            "validation_file",
            "held.jsonl:1: bad. Mend it.",
        ),
        (
            HealthError("run: the loss of step 1 is nan. Lower --lr, or use --on-long drop."),
            "training_failed",
            None,
            "run: the loss of step 2 is nan. Lower learning_rate_multiplier, or use on_long drop.",
        ),
        (
            HealthError("/srv/models/m: x, /etc/other/place: y"),
            "training_failed",
            None,
            "model: x, …: y",
        ),
    ],
)
def test_problems_name_the_users_files_and_no_path(
    error: PreftuneError, code: str, param: str | None, message: str
) -> None:
    problem = problem_of(error, SPEC)
    assert (problem.code, problem.param, problem.message) == (code, param, message)


def test_disk_trouble_is_found_behind_other_errors() -> None:
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as cause:
            raise HealthError("run: cannot write") from cause
    except HealthError as error:
        assert "No space left" in disk_trouble(error)
    assert disk_trouble(HealthError("nan")) == ""
    assert disk_trouble(OSError(2, "No such file")) == ""


def test_event_and_result_file_hold_the_same_figures() -> None:
    rows = [
        {"step": 0, "loss": 0.75, "mean_token_accuracy": 0.5, "lr": 1.0},
        {"step": 1, "loss": 0.5, "mean_token_accuracy": 1.0, "full_valid_loss": 0.1 + 0.2},
    ]
    lines = result_csv("supervised", rows).splitlines()
    assert lines[1] == "1,0.75,0.5,,,0.5,,"
    assert lines[2] == "2,0.5,1.0,,,1.0,0.30000000000000004,"
    event = step_event("supervised", rows[1], total=2, now_s=5.0)
    assert event.message == "Step 2/2: training loss=0.5000"
    assert event.data == {"step": 2, "total_steps": 2, **columns("supervised", rows[1])}
    assert event.key == "step-2"
