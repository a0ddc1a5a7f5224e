"""What a grading comes to: a reward, and errors by name, in the form of OpenAI's API."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from preftune.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeErrors:
    """What went wrong, fourteen fields. A reward with an error counts as none, though it is 0."""

    formula_parse_error: bool = False  # the formula gives no finite number of these rewards
    sample_parse_error: bool = False  # output_json asked for, and the sample is no JSON
    truncated_observation_error: bool = False  # the model grader's answer was cut at its longest
    unresponsive_reward_error: bool = False  # no reward before the deadline
    invalid_variable_error: bool = False  # a template names what the item or sample lacks
    other_error: bool = False
    python_grader_server_error: bool = False  # the grading was stopped, or died
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False  # the source raised, or returned no number
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False  # no answer
    model_grader_server_error_details: str | None = None
    model_grader_refusal_error: bool = False  # the answer was withheld by a content filter
    model_grader_parse_error: bool = False  # an answer with no score in it

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the errors that are set, in the order above; none for a good grading."""
        return () if self is NO_ERRORS else tuple(n for n in FLAGS if getattr(self, n))

    def join(self, other: "GradeErrors") -> "GradeErrors":
        """Return the errors of both; of two texts the first."""
        if self == NO_ERRORS:
            return other
        names = [one.name for one in fields(self)]
        return GradeErrors(**{n: getattr(self, n) or getattr(other, n) for n in names})


NO_ERRORS = GradeErrors()
FLAGS = tuple(one.name for one in fields(GradeErrors) if isinstance(one.default, bool))


class GradingError(DataError):
    """One grading went wrong; carries the errors to report."""

    def __init__(self, problem: str, **errors: Any) -> None:
        super().__init__(problem)
        self.problem, self.errors = problem, GradeErrors(**errors)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """What one grader that is not `multi` says of one sample; reward 0 when it went wrong."""

    reward: float
    errors: GradeErrors = NO_ERRORS
    problem: str = ""  # what went wrong in words
    seconds: float = 0.0
    scores: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeMetadata:
    """How a reward came about; `scores` are the grader's own marks by name."""

    name: str
    type: str
    errors: GradeErrors
    execution_time: float  # seconds
    scores: Mapping[str, Any]
    token_usage: int | None = None
    sampled_model_name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeResult:
    """The answer of `run`; `problem` says in words what the errors name."""

    reward: float
    metadata: GradeMetadata
    sub_rewards: Mapping[str, float]
    model_grader_token_usage_per_model: Mapping[str, int]
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Whether an error is set: then the reward says nothing of the sample."""
        return bool(self.metadata.errors.kinds)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, ready to be sent."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def failed(fault: GradingError, seconds: float = 0.0) -> Graded:
    """Return the grading that a fault comes to: reward 0, its errors set."""
    return Graded(reward=0.0, errors=fault.errors, problem=fault.problem, seconds=seconds)
