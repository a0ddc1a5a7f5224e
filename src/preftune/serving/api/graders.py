"""Graders of the API: check one, and try one on a sample before a job trains on it.

A grading runs in a thread of its own few, so that whatever it takes, other requests stay fast. What
a grader is filled with is bounded, and a python grader runs in its sandbox or not at all.
"""

import asyncio
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, Request, Response
from pydantic import BaseModel, Field

from preftune.errors import SettingsError
from preftune.graders.item_names import templates_of
from preftune.graders.results import GradeResult, GradingError
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Item, Sample, plain_text
from preftune.graders.sandbox import SandboxSettings
from preftune.graders.specs import (
    Grader,
    ScoreModel,
    leaves,
    validate,
)
from preftune.graders.templates import Variable, parse_template
from preftune.serving.api.access import Caller, require
from preftune.serving.api.asking import Models, Served
from preftune.serving.api.bodies import Body, api_router
from preftune.serving.api.errors import ApiError
from preftune.serving.api.grader_models import Bench, models_asked
from preftune.serving.api.settings import ApiSettings
from preftune.serving.backend import Places

router = api_router()
AT_ONCE = 4  # gradings that run
MOST_WAITING = 64  # gradings that run or wait
DEADLINE_S = 120.0  # of a model that judges; OpenAI's for python graders
LONGEST_TEXT = 256 * 1024  # characters of a sample, and of a template that is filled in
MOST_VARIABLES = 1000  # of one template


class ValidateBody(Body):
    """Body of POST /fine_tuning/alpha/graders/validate."""

    grader: dict[str, Any]


class RunBody(Body):
    """Body of POST /fine_tuning/alpha/graders/run."""

    grader: dict[str, Any]
    model_sample: str = Field(max_length=LONGEST_TEXT, description="What a model answered.")
    item: dict[str, Any] = Field({}, description="What templates call item.")


class Validated(BaseModel):
    """The grader as it was given: it is good."""

    grader: dict[str, Any]


class RunErrors(BaseModel):
    """What went wrong; a reward with an error is 0 and says nothing of the sample."""

    formula_parse_error: bool
    sample_parse_error: bool
    truncated_observation_error: bool
    unresponsive_reward_error: bool
    invalid_variable_error: bool
    other_error: bool
    python_grader_server_error: bool
    python_grader_server_error_type: str | None
    python_grader_runtime_error: bool
    python_grader_runtime_error_details: str | None
    model_grader_server_error: bool
    model_grader_server_error_details: str | None
    model_grader_refusal_error: bool
    model_grader_parse_error: bool


class RunMetadata(BaseModel):
    """How the reward came about; `execution_time` in seconds."""

    name: str
    type: str
    errors: RunErrors
    execution_time: float
    scores: dict[str, Any]
    token_usage: int | None
    sampled_model_name: str | None


class Problem(BaseModel):
    """Ours: what the errors name, in words."""

    problem: str


class Ran(BaseModel):
    """What a grader said of a sample."""

    reward: float
    metadata: RunMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]
    preftune: Problem | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradings:
    """How many gradings may run and wait on this server."""

    running: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(AT_ONCE))
    places: Places = field(default_factory=lambda: Places(MOST_WAITING))


@router.post("/v1/fine_tuning/alpha/graders/validate", tags=["graders"])
async def validate_grader(
    body: ValidateBody, _caller: Annotated[Caller, Depends(require("graders:read"))]
) -> Validated:
    """Check a grader without running it; what is wrong with it is said with the field's name."""
    await run_sync(_checked, body.grader)
    return Validated(grader=body.grader)


@router.post("/v1/fine_tuning/alpha/graders/run", response_model=Ran, tags=["graders"])
async def run_grader(
    request: Request, body: RunBody, caller: Annotated[Caller, Depends(require("graders:write"))]
) -> Response:
    """Run a grader on one sample.

    `score_model` and `label_model` ask a model of this server. Ours: a `score_model` whose model is
    a reward model gets its score of the sample as the reply to `input`, brought into `range` only
    if one is given.
    """
    state = request.app.state
    if not hasattr(state, "gradings"):
        state.gradings = Gradings()
    gradings: Gradings = state.gradings
    loop = asyncio.get_running_loop()
    bench = Bench(loop=loop, backend=state.backend, deadline_s=DEADLINE_S)
    work = partial(_run, body, state.api, Models.of(request, caller), bench)
    with gradings.places.take(1):
        result = await run_sync(work, limiter=gradings.running)
    shown = result.as_json()
    if problem := shown.pop("problem"):
        shown["preftune"] = Problem(problem=problem)
    answer = Ran(**shown).model_dump_json(exclude_unset=True)
    return Response(answer, media_type="application/json")


def _run(body: RunBody, settings: ApiSettings, models: Models, bench: Bench) -> GradeResult:
    """Return the result of a grading; runs in a thread.

    Raises:
        ApiError: 400, 403 or 404, why it cannot run.
    """
    grader = _checked(body.grader)
    sample, item = Sample(output_text=body.model_sample), body.item
    _check_sizes(grader, sample, item)
    asked = _models(grader, models)
    if isinstance(grader, ScoreModel) and asked[grader.model].is_reward:
        clip = body.grader.get("range") is not None
        return bench.reward(grader, asked[grader.model], sample, item, clip=clip)
    sandbox = SandboxSettings(allow_python=settings.python_graders, workers=1)
    try:
        runner = GraderRunner(
            grader, client_of=lambda name: bench.client(asked[name]), sandbox=sandbox
        )
    except SettingsError as error:  # the grader itself is good: it may not run here
        raise ApiError(403, str(error), param="grader", code="grader_not_allowed") from error
    with runner:
        return runner.run(sample, item)


def _checked(spec: dict[str, Any]) -> Grader:
    """Return the grader that was sent.

    Raises:
        ApiError: 400, what is wrong with it.
    """
    try:
        return validate(spec)
    except SettingsError as error:
        named = re.match(r"grader[\w.\[\]]*", str(error))
        param = named[0].rstrip(".") if named else "grader"
        raise ApiError(400, str(error), param=param, code="invalid_grader") from error


def _models(grader: Grader, models: Models) -> dict[str, Served]:
    """Return the models that a grader asks, by name.

    Raises:
        ApiError: 400, there is none of this name, or a reward model inside a multi grader.
    """
    found: dict[str, Served] = {}
    for name, reward_may in models_asked(grader):
        try:
            found[name] = models.any(name) if reward_may else models.policy(name)
        except ApiError as error:
            code = "model_not_available"
            raise ApiError(400, error.message, param="grader.model", code=code) from error
    return found


def _check_sizes(grader: Grader, sample: Sample, item: Item) -> None:
    """Refuse what would fill the memory: templates may name one long value many times.

    Raises:
        ApiError: 400.
    """
    for leaf in leaves(grader).values():
        for text in templates_of(leaf):
            named = parse_template(text).variables
            if len(named) > MOST_VARIABLES:
                raise _too_long(f"names more than {MOST_VARIABLES} variables")
            lengths = {one.text: _length(one, sample, item) for one in named}
            if len(text) + sum(lengths[one.text] for one in named) > LONGEST_TEXT:
                raise _too_long(f"is longer than {LONGEST_TEXT} characters when filled in")


def _length(variable: Variable, sample: Sample, item: Item) -> int:
    try:
        return len(plain_text(variable.find(sample, item)))
    except GradingError:  # the grading will say what is missing
        return 0


def _too_long(what: str) -> ApiError:
    message = f"A template of the grader {what}. Shorten it."
    return ApiError(400, message, param="grader", code="invalid_grader")
