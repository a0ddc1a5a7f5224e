"""Models: the bases that this server was given, and what jobs made of them."""

import logging
import time
from typing import Annotated, Literal

from fastapi import Depends, Request
from pydantic import BaseModel
from sqlalchemy import Connection

from preftune.serving.api.access import Caller, require
from preftune.serving.api.bodies import api_router
from preftune.serving.api.errors import ApiError
from preftune.serving.api.settings import ApiSettings
from preftune.serving.base_models import BaseModels
from preftune.serving.job_folders import names_in
from preftune.serving.tidying import tidy
from preftune.store import tuned_models
from preftune.store.database import Database
from preftune.store.jobs import unended
from preftune.store.tuned_models import TunedModel


class ModelAnswer(BaseModel):
    """A model that can be asked and tuned."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All models, in one page."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class ModelDeleted(BaseModel):
    """A model is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


logger = logging.getLogger("preftune.jobs")
router = api_router()
MayRead = Annotated[Caller, Depends(require("models:read"))]
MayWrite = Annotated[Caller, Depends(require("models:write"))]


@router.get("/v1/models", tags=["models"])
def list_models(request: Request, caller: MayRead) -> ModelList:
    """Return the base models, then the tuned models and checkpoints, the newest first."""
    state = request.app.state
    database: Database = state.database
    bases: BaseModels = state.base_models
    with database.read() as db:
        tuned = tuned_models.models_of(db, caller.project_id)
    shown = [_base(bases, name) for name in bases.folders]
    shown += [_tuned(one, state.api) for one in tuned if one.base in bases.folders]
    return ModelList(data=shown)


@router.get("/v1/models/{model:path}", tags=["models"])
def retrieve_model(model: str, request: Request, caller: MayRead) -> ModelAnswer:
    """Return a model."""
    state = request.app.state
    database: Database = state.database
    bases: BaseModels = state.base_models
    if model in bases.folders:
        return _base(bases, model)
    with database.read() as db:
        tuned = tuned_models.model(db, caller.project_id, model)
    if tuned is None or tuned.base not in bases.folders:
        raise no_model(model)
    return _tuned(tuned, state.api)


@router.delete("/v1/models/{model:path}", tags=["models"])
def delete_model(model: str, request: Request, caller: MayWrite) -> ModelDeleted:
    """Delete a tuned model or checkpoint; its job stays as it was. Base models stay."""
    database: Database = request.app.state.database
    if model in request.app.state.base_models.folders:
        raise ApiError(
            403,
            f"'{model}' is a base model of this server. Only tuned models can be deleted.",
            param="model",
        )

    def work(db: Connection) -> TunedModel:
        if tuned_models.model(db, caller.project_id, model) is None:
            raise no_model(model)
        refuse_if_needed(db, caller.project_id, model)
        return tuned_models.delete(db, caller.project_id, model, now_s=time.time())

    gone = database.write(work)
    try:
        tidy(database, gone.job_id)
    except OSError:
        logger.exception("model %s: its files could not be deleted", gone.folder)
    return ModelDeleted(id=model)


def refuse_if_needed(db: Connection, project_id: str, model: str) -> None:
    """Refuse to delete what a job that has not ended starts from, or asks as a grader.

    Raises:
        ApiError: 400, which job.
    """
    for job in unended(db, project_id):
        if model == job.model:
            needs = f"trains on top of '{model}'"
        elif model in names_in(job.request):
            needs = f"grades with '{model}'"
        else:
            continue
        raise ApiError(
            400,
            f"Job {job.id} {needs}. Cancel it first, or wait for its end.",
            param="model",
            code="model_in_use",
        )


def no_model(name: str) -> ApiError:
    """Return the refusal of a name that stands for no model of the project."""
    message = f"The model '{name}' does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def _base(bases: BaseModels, name: str) -> ModelAnswer:
    return ModelAnswer(id=name, created=bases.created_s(name), owned_by="system")


def _tuned(model: TunedModel, api: ApiSettings) -> ModelAnswer:
    return ModelAnswer(
        id=model.name, created=int(model.created_s), owned_by=f"org-{api.organization}"
    )
