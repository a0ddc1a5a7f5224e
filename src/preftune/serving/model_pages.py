"""Pages of models: where each comes from, and what it says beside its base."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import APIRouter
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from preftune.serving.api.asking import Models
from preftune.serving.backend import Backend, Question
from preftune.serving.base_models import BaseModels
from preftune.serving.file_pages import name_of
from preftune.serving.job_frame import At, Desk
from preftune.serving.job_view import short
from preftune.serving.web import Payload
from preftune.store.jobs import job
from preftune.store.tuned_models import TunedModel, model, models_of
from preftune.types import Message, user
from preftune.wire.chat import Ask, Choice, Done, Drawing

router = APIRouter()
MANIFEST = "MANIFEST.json"
LONGEST_REPLY = 4096  # tokens


class Try(Payload):
    """A prompt to try on a model."""

    model: Annotated[str, Field(min_length=1, max_length=300)]
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)]
    system: Annotated[str, Field(max_length=100_000)] = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=1, le=LONGEST_REPLY)] = 256
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a model said, and what that cost."""

    text: str
    told: str


class Entry(msgspec.Struct, frozen=True):
    """A file of a model as its manifest has it."""

    bytes: int
    sha256: str


class Listed(msgspec.Struct, frozen=True):
    """The part of a manifest that the page shows."""

    files: dict[str, Entry]


@router.get("/models", include_in_schema=False)
def models_page(at: At) -> Response:
    """Show the base models, and what jobs made of them, the newest first."""
    with at.database.read() as db:
        tuned = models_of(db, at.project_id)
    return at.page("models.html.jinja", bases=sorted(_bases(at).folders), tuned=tuned)


@router.get("/models/{name:path}", include_in_schema=False)
def model_page(at: At, name: str) -> Response:
    """Show where a model comes from, and a box to try it beside its base."""
    bases = _bases(at)
    with at.database.read() as db:
        found = model(db, at.project_id, name)
        if found is None and name not in bases.folders:
            raise HTTPException(404)
        made_by = job(db, at.project_id, found.job_id) if found else None
        rows = name_of(db, at.project_id, made_by.training_file) if made_by else ""
    files, trouble = _files(at, found) if found else ({}, "")
    base = found.base if found else name
    return at.page(
        "model.html.jinja",
        name=name,
        found=found,
        job=made_by,
        rows=rows,
        files=sorted(files.items()),
        trouble=trouble,
        figures=_figures(found.metrics) if found else [],
        sides=dict.fromkeys([name, base] if base in bases.folders else [name]),
        longest=LONGEST_REPLY,
    )


@router.post("/models/try")
async def try_model(at: At, body: Try) -> Said:
    """Ask a model, and return what it says."""
    models = Models(database=at.database, bases=_bases(at), project_id=at.project_id)
    found = await run_in_threadpool(models.policy, body.model)
    before = (Message(role="system", content=body.system),) if body.system else ()
    ask = Ask(
        model=str(found.folder),
        base="" if found.base == found.folder else str(found.base),
        manifest_hash=found.manifest_hash,
        messages=(*before, user(body.prompt)),
        drawing=Drawing(temperature=body.temperature, max_tokens=body.max_tokens, seed=body.seed),
    )
    backend: Backend = at.request.app.state.backend
    records = [record async for record in backend.answers(Question(name=found.name, ask=ask))]
    text = "".join(one.text for one in records if isinstance(one, Choice))
    cost = next(one for one in records if isinstance(one, Done))
    return Said(text=text, told=f"{cost.completion_tokens} tokens, {cost.seconds:.1f} s")


def _figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), short(value)) for name, value in metrics.items()]


def _files(at: Desk, found: TunedModel) -> tuple[dict[str, Entry], str]:
    """Return the files of a model by its manifest, and what is wrong with it, in words."""
    path = at.database.files / found.folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError:
        return {}, "Its files are not on this disk. Restore the backup that has them."
    if hashlib.sha256(content).hexdigest() != found.manifest_hash:
        return {}, "Its list of files was changed since it was made. Do not use this model."
    return msgspec.json.decode(content, type=Listed).files, ""


def _bases(at: Desk) -> BaseModels:
    found: BaseModels = at.request.app.state.base_models
    return found
