"""A job in the product's own settings: the same that `preftune train` takes.

All paths are relative to the folder of the attempt, which is the process's working folder: another
attempt in another folder has the same settings, and goes on with the same run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preftune.jobs.auto import learning_rate, responses
from preftune.jobs.extras import LORA_RANK, SETTINGS, WHERE, ExtraSettings
from preftune.jobs.failures import TRAINING, VALIDATION
from preftune.settings import build
from preftune.training.policy_settings import RftSettings
from preftune.training.settings import DirectSettings, SftSettings
from preftune.wire.job import JobSpec

SAVES = 20  # checkpoints of a run, unless a job says otherwise
LONGEST_RESPONSE = 256  # tokens, unless a job says otherwise


def settings_of(
    spec: JobSpec,
    numbers: Mapping[str, Any],
    own: ExtraSettings,
    theirs: Mapping[str, Any],
    *,
    model: str,
    rows: int,
    parameters: int,
    most_tokens: int | None,
) -> SftSettings | DirectSettings | RftSettings:
    """Return the settings that a job asks for.

    Args:
        spec: the job.
        numbers: its hyperparameters, resolved.
        own: extras that are the job's own.
        theirs: extras that are settings of the method, by their flat names.
        model: folder that training starts from.
        rows: of the training file.
        parameters: numbers in the base model.
        most_tokens: that the model can hold, None when it doesn't say.

    Raises:
        SettingsError: extras that contradict each other, or that the method refuses.
    """
    rank = theirs.get("lora_rank", LORA_RANK)
    steps = numbers["n_epochs"] * -(-rows // numbers["batch_size"])
    rate = learning_rate(
        spec.method,
        multiplier=float(numbers["learning_rate_multiplier"]),
        parameters=parameters,
        all_weights=rank == 0,
    )
    flat: dict[str, Any] = {
        "model": model,
        "data": Path(TRAINING),
        "out": Path("run"),
        "seed": spec.seed,
        "threads": spec.threads,
        "save_every": own.save_every or max(1, steps // SAVES),
        "epochs": float(numbers["n_epochs"]),
        "batch_size": numbers["batch_size"],
        "lr": own.learning_rate or rate,
        "lora_rank": rank,
    }
    if spec.method == "supervised":
        flat["train_on"] = "all"
    elif spec.method == "dpo":
        flat |= _of_pairs(spec, numbers, theirs)
    else:
        flat |= _of_rollouts(numbers, most_tokens)
    return build(SETTINGS[spec.method], flat | dict(theirs), where=WHERE)


def _of_pairs(
    spec: JobSpec, numbers: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what DPO has besides: plain DPO is plain, so that its first loss is log 2."""
    found: dict[str, Any] = {"held_out": Path(VALIDATION)} if spec.validation else {}
    if numbers.get("beta") is not None:
        found["beta"] = float(numbers["beta"])
    if theirs.get("loss", "sigmoid") == "sigmoid":
        found["nll_weight"] = 0.0
    return found


def _of_rollouts(numbers: Mapping[str, Any], most_tokens: int | None) -> dict[str, Any]:
    """Return what reinforcement has besides; the rewards are the job's grader."""
    longest = min(LONGEST_RESPONSE, most_tokens // 2) if most_tokens else LONGEST_RESPONSE
    return {
        "samples": responses(float(numbers["compute_multiplier"])),
        "max_new_tokens": longest,
        "watch_every": 0,
    }
