"""From a client's request to what the generation process is asked: which weights, and how to draw.

A model is looked up among the base models and the project's own; a name is never a path.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from preftune.serving.api.access import Caller
from preftune.serving.api.chat_bodies import SEEDS, Drawn
from preftune.serving.api.errors import ApiError
from preftune.serving.api.models import no_model
from preftune.serving.base_models import BaseModels, find_model
from preftune.store import tuned_models
from preftune.store.database import Database
from preftune.wire.chat import Ask, Drawing
from preftune.wire.model_files import REWARD_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A model that can be asked: its folder, its base's, and the hash it was published with."""

    name: str
    folder: Path
    base: Path
    manifest_hash: str
    is_reward: bool

    def ask(self, **more: Any) -> Ask:
        """Return a question to it; its prompt, and how to draw, are among the other fields."""
        base = "" if self.base == self.folder else str(self.base)
        return Ask(model=str(self.folder), base=base, manifest_hash=self.manifest_hash, **more)


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The models that one caller may ask."""

    database: Database
    bases: BaseModels
    project_id: str

    @classmethod
    def of(cls, request: Request, caller: Caller) -> "Models":
        """Return those of whoever asks."""
        state = request.app.state
        return cls(database=state.database, bases=state.base_models, project_id=caller.project_id)

    def policy(self, name: str, *, param: str = "model") -> Served:
        """Return a model that writes text.

        Raises:
            ApiError: 404, there is none of this name; 400, it is a reward model.
        """
        found = self.any(name, param=param)
        if found.is_reward:
            raise writes_nothing(name, param=param)
        return found

    def reward_model(self, name: str, *, param: str = "reward_model") -> Served:
        """Return a reward model.

        Raises:
            ApiError: 404, there is none of this name; 400, it is no reward model.
        """
        found = self.any(name, param=param)
        if not found.is_reward:
            raise ApiError(
                400,
                f"The model '{name}' is no reward model. Name one that is.",
                param=param,
                code="model_not_available",
            )
        return found

    def any(self, name: str, *, param: str = "model") -> Served:
        """Return a model of either kind.

        Raises:
            ApiError: 404, there is none of this name.
        """
        with self.database.read() as db:
            found = self.look_up(db, name)
        if found is None:
            error = no_model(name)
            error.param = param
            raise error
        return found

    def look_up(self, db: Connection, name: str) -> Served | None:
        """Return a model of either kind, None where there is none of this name."""
        files = self.database.files
        found = find_model(db, self.bases, self.project_id, name, files=files)
        if found is None:
            return None
        tuned = tuned_models.model(db, self.project_id, name)
        return Served(
            name=name,
            folder=found.folder,
            base=found.base,
            manifest_hash=tuned.manifest_hash if tuned else "",
            is_reward=(found.folder / REWARD_FILE).is_file(),
        )


def writes_nothing(name: str, *, param: str) -> ApiError:
    """Return the refusal of a reward model where a model that writes is wanted."""
    return ApiError(
        400,
        f"The model '{name}' scores text and writes none. Ask a model that writes.",
        param=param,
        code="model_not_available",
    )


async def begin_ask(
    models: Models, body: Drawn, drawing: Drawing, *, best_of: int, reward_model: str | None = None
) -> Ask:
    """Return what to ask but for its prompt.

    Raises:
        ApiError: 404, no such model; 400, it is of the wrong kind.
    """

    def look_up() -> tuple[Served, Served | None]:
        reward = models.reward_model(reward_model) if reward_model else None
        return models.policy(body.model), reward

    model, reward = await run_in_threadpool(look_up)
    return model.ask(
        drawing=drawing,
        n=body.n,
        best_of=best_of,
        reward_model=str(reward.folder) if reward else "",
        deadline_s=body.deadline_s,
        stream=body.stream,
    )


def drawing_of(body: Drawn, *, max_tokens: int | None, logprobs: int | None) -> Drawing:
    """Return how replies are drawn; without a seed of the client's, from one drawn here."""
    seed = secrets.randbelow(SEEDS) if body.seed is None else body.seed % SEEDS
    is_greedy = body.top_p == 0  # the likeliest token alone, as temperature 0 has it
    return Drawing(
        max_tokens=max_tokens,
        temperature=0.0 if is_greedy else body.temperature,
        top_p=1.0 if is_greedy else body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        stop=tuple(body.stop),
        seed=seed,
        logprobs=logprobs,
    )


def best_of(body: Drawn, asked: int | None, *, reward_model: str | None = None) -> int:
    """Return how many replies to draw for `n`; 0 when no more than are given.

    Raises:
        ApiError: 400, fields that contradict each other.
    """
    drawn = asked or body.n
    wrong = (
        (body.stream_options and not body.stream, "stream_options", "is for streams; set stream"),
        (drawn < body.n, "best_of", f"is less than n, which is {body.n}"),
        (reward_model and drawn == body.n, "reward_model", "chooses among best_of > n"),
        (body.deadline_s and drawn == body.n, "deadline_s", "chooses among best_of > n"),
    )
    for is_wrong, name, what in wrong:
        if is_wrong:
            raise ApiError(400, f"Invalid '{name}': it {what}.", param=name, code="invalid_value")
    return 0 if drawn == body.n else drawn
