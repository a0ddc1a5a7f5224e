"""What clients send to and get from the routes of jobs, field by field."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from preftune.serving.api.bodies import Body
from preftune.serving.api.hyperparameters import (
    Auto,
    DpoHyperparameters,
    Hyperparameters,
    InItsPlace,
    ReinforcementHyperparameters,
    misplaced,
)

SUFFIX = re.compile(r"[\w.+-]+( [\w.+-]+)*")
MOST_SEED = 2**31 - 1
Kind = Literal["supervised", "dpo", "reinforcement"]
Status = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]


class Supervised(InItsPlace):
    """Imitate the answers of the rows."""

    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Dpo(InItsPlace):
    """Prefer one answer of a pair to the other."""

    hyperparameters: DpoHyperparameters = Field(default_factory=DpoHyperparameters)


class Reinforcement(InItsPlace):
    """Earn more from a grader."""

    grader: dict[str, Any] = Field(description="What an answer earns, see the page on graders.")
    response_format: dict[str, Any] | None = None
    hyperparameters: ReinforcementHyperparameters = Field(
        default_factory=ReinforcementHyperparameters
    )


class Method(InItsPlace):
    """How to train."""

    place: ClassVar[str] = "the part of its type, as method.dpo.hyperparameters"

    type: Kind
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None
    preftune: dict[str, Any] = Field(
        default_factory=dict, description="What this server offers beyond OpenAI's API."
    )

    @model_validator(mode="before")
    @classmethod
    def kept_in_its_part(cls, sent: Any) -> Any:
        """Refuse `hyperparameters` beside `type`."""
        if isinstance(sent, dict) and sent.get("hyperparameters") is not None:
            raise misplaced("hyperparameters", f"'{sent.get('type', 'dpo')}' inside of it")
        return sent

    @model_validator(mode="after")
    def one_part(self) -> "Method":
        """Refuse a part of another method, and a grader that is not there."""
        for name in ("supervised", "dpo", "reinforcement"):
            if name != self.type and getattr(self, name) is not None:
                told = {"name": name, "type": self.type}
                raise PydanticCustomError(
                    "unknown_field", "'{name}' does not go with type '{type}'. Leave it out.", told
                )
        if self.type == "reinforcement" and self.reinforcement is None:
            raise PydanticCustomError("no_grader", "Reinforcement needs a grader. Give one")
        return self

    @property
    def part(self) -> Supervised | Dpo | Reinforcement:
        """What was sent for the type, or its defaults."""
        default = Dpo() if self.type == "dpo" else Supervised()
        return self.reinforcement or self.dpo or self.supervised or default


class Wandb(Body):
    """Where Weights & Biases would keep the run."""

    project: str = Field(min_length=1, max_length=200)
    name: str | None = None
    entity: str | None = None
    tags: list[str] | None = None


class Integration(Body):
    """Kept with the job and shown; this server sends nothing elsewhere."""

    type: Literal["wandb"]
    wandb: Wandb


class JobRequest(Body):
    """A job to make."""

    model: str = Field(
        min_length=1, max_length=300, description="A base model, a tuned one, or a checkpoint."
    )
    training_file: str = Field(
        min_length=1, max_length=100, description="Id of a file of purpose fine-tune."
    )
    validation_file: str | None = Field(None, min_length=1, max_length=100)
    method: Method = Field(default_factory=lambda: Method(type="supervised"))
    hyperparameters: Hyperparameters | None = Field(
        None, description="The old place; for supervised jobs alone."
    )
    suffix: str | None = Field(
        None, min_length=1, max_length=64, description="Part of the tuned model's name."
    )
    seed: int | None = Field(
        None, ge=0, le=MOST_SEED, description="The same seed gives the same model; else drawn."
    )
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None

    @field_validator("suffix")
    @classmethod
    def plain(cls, suffix: str | None) -> str | None:
        """Refuse what would make the tuned model's name hard to read or to take apart."""
        if suffix is not None and (not SUFFIX.fullmatch(suffix) or ".." in suffix):
            raise PydanticCustomError(
                "suffix",
                "Use letters, digits, single blanks between them and any of . _ + -, never two "
                "dots in a row",
            )
        return suffix

    @model_validator(mode="after")
    def one_place(self) -> "JobRequest":
        """Refuse hyperparameters in the old place for new methods, or in both places."""
        if self.hyperparameters is not None:
            if self.method.type != "supervised":
                raise misplaced("hyperparameters", f"'method.{self.method.type}.hyperparameters'")
            if self.method.supervised is not None:
                raise misplaced("hyperparameters", "'method.supervised' alone: it is given twice")
        return self

    @property
    def numbers(self) -> dict[str, Any]:
        """The hyperparameters of the method, "auto" where none were given."""
        return (self.hyperparameters or self.method.part.hyperparameters).model_dump()


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class ShownHyperparameters(BaseModel):
    """The numbers of a job; "auto" until the worker has settled them."""

    n_epochs: int | Auto
    batch_size: int | Auto
    learning_rate_multiplier: float | Auto


class Extended(BaseModel):
    """What this server says of a job beyond OpenAI's API."""

    step: int  # optimiser steps that a checkpoint has kept
    total_steps: int | None
    why: str | None  # why it waits, such as a full disk
    verdict: dict[str, Any] | None  # of the gate


class JobAnswer(BaseModel):
    """A job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    fine_tuned_model: str | None
    organization_id: str
    result_files: list[str]
    status: Status
    training_file: str
    validation_file: str | None
    hyperparameters: ShownHyperparameters
    trained_tokens: int | None
    error: JobError | None
    seed: int
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    method: dict[str, Any]
    user_provided_suffix: str | None
    preftune: Extended


class EventAnswer(BaseModel):
    """One line of a job's history."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class CheckpointMetrics(BaseModel):
    """What was measured at a checkpoint: OpenAI's names, and those of the method."""

    model_config = ConfigDict(extra="allow")

    step: float


class CheckpointAnswer(BaseModel):
    """A model that a job left on its way; it answers at once."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int
