"""What a job takes beyond OpenAI's parameters: `method.preftune`, by the product's own names.

The server checks it when a job is made, the worker reads it; neither needs torch for that. Paths
and URLs are no part of it: what a job reads is named by ids.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.settings import build, options
from preftune.training.loss_table import check_loss
from preftune.training.policy_settings import RftSettings
from preftune.training.settings import DirectSettings, SftSettings

Method = Literal["supervised", "dpo", "reinforcement"]
WHERE = "method.preftune"
SETTINGS: dict[Method, type[SftSettings | DirectSettings | RftSettings]] = {
    "supervised": SftSettings,
    "dpo": DirectSettings,
    "reinforcement": RftSettings,
}
LORA_RANK = 16  # of the adapter that a job trains; lora_rank 0 trains all weights
KEPT = {  # a job says these by its own parameters, or they are the server's business
    *("model", "data", "held_out", "beta", "epochs", "batch_size", "lr", "out", "seed", "threads"),
    *("save_every", "trust_foreign", "compile", "reward", "grader", "grader_url", "combine"),
    *("grader_key_env", "rollout_url", "rollout_key_env", "max_staleness", "served_logprobs"),
    *("watch_every", "watch_prompts", "watch_data", "audit", "stop_on_alarm"),
}
MOST = 2**53  # of a whole number: no setting is near it, and formats lose what is above


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraSettings:
    """What is a job's own; all else in `method.preftune` are settings of its method."""

    learning_rate: Annotated[
        float | None, Meta(description="Peak learning rate itself, in place of a multiplier.")
    ] = None
    eval_every: Annotated[
        int, Meta(ge=0, description="Steps between looks at validation rows; 0: about 50 looks.")
    ] = 0
    snapshot_every: Annotated[
        int, Meta(ge=0, description="Steps between models that can answer; 0: one per epoch.")
    ] = 0
    save_every: Annotated[
        int, Meta(ge=0, description="Steps between checkpoints to resume from; 0: about 50.")
    ] = 0
    gate: Annotated[
        dict[str, Any] | None, Meta(description="Rules the tuned model must pass; see the docs.")
    ] = None

    def __post_init__(self) -> None:
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise SettingsError(f"learning_rate is {self.learning_rate}. Use a number above 0.")


OWN = tuple(option.name for option in options(ExtraSettings))


def names_of(method: Method) -> tuple[str, ...]:
    """Return all that `method.preftune` takes for a method, the job's own names first."""
    theirs = (option.name for option in options(SETTINGS[method]))
    return (*OWN, *(name for name in theirs if name not in KEPT))


def read_extras(method: Method, given: Mapping[str, Any]) -> tuple[ExtraSettings, dict[str, Any]]:
    """Return the job's own extras, and the settings of its method by their flat names.

    Raises:
        SettingsError: an unknown name (with the nearest known one), a wrong value, or two that
            contradict each other.
    """
    known = names_of(method)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise SettingsError(f"{WHERE}: unknown field {name!r} of method {method}. {fix}")
    own = build(ExtraSettings, {n: v for n, v in given.items() if n in OWN}, where=WHERE)
    theirs = {name: value for name, value in given.items() if name not in OWN}
    return own, theirs


def check_extras(method: Method, given: Mapping[str, Any], *, beta: float | None = None) -> None:
    """Check `method.preftune` as far as can be without rows, model and torch.

    Args:
        method: of the job.
        given: its `method.preftune`.
        beta: of a dpo job, None for "auto"; `loss_table.check_beta` says whether its loss reads it.

    Raises:
        SettingsError: as `read_extras`, a loss that is not known or does not read a setting, or a
            gate that is none.
    """
    _check_whole_numbers(given)
    own, theirs = read_extras(method, given)
    if own.gate is not None:
        from preftune.jobs.gate_spec import read_gate_spec  # scipy

        read_gate_spec(own.gate)
    flat: dict[str, Any] = {"model": "model", "data": Path("rows.jsonl"), "out": Path("run")}
    flat |= {"lora_rank": LORA_RANK, **theirs}
    if beta is not None:
        flat["beta"] = beta
    settings = build(SETTINGS[method], flat, where=WHERE)
    if isinstance(settings, DirectSettings):
        try:
            check_loss(settings)
        except SettingsError as error:
            raise SettingsError(f"{WHERE}: {error}") from error


def _check_whole_numbers(given: Mapping[str, Any]) -> None:
    """Refuse whole numbers that no process could count to, wherever they stand."""
    for name, value in given.items():
        if any(isinstance(one, int) and abs(one) > MOST for one in _values(value)):
            raise SettingsError(f"{WHERE}: {name} is beyond 2^53. Use a smaller number.")


def _values(value: Any) -> Iterator[Any]:
    """Yield what stands in a JSON value, however deep."""
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for part in parts:
            yield from _values(part)
    else:
        yield value
