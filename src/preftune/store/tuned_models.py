"""Models that jobs made: checkpoints and final models, each of which answers requests."""

import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, exists, insert, not_, or_, select, update

from preftune.store.job_errors import UnknownModelError
from preftune.store.job_schema import tuned_models
from preftune.store.pages import Page, page_of, place_of

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedModel:
    """A model that a job made."""

    name: str  # ft:BASE:ORG:SUFFIX:ID, a checkpoint with :ckpt-step-N behind
    checkpoint_id: str  # ftckpt_…
    project_id: str
    job_id: str
    base: str  # name of the base model that all of its training began with
    step: int
    final: bool
    folder: str  # within the store's files
    manifest_hash: str  # SHA-256 of its MANIFEST.json
    metrics: dict[str, Any]
    created_s: float


def model(db: Connection, project_id: str, name: str) -> TunedModel | None:
    """Return the model of this name; None where the project has none, or has deleted it."""
    row = db.execute(select(tuned_models).where(_mine(project_id, name))).one_or_none()
    return None if row is None else _model(row)


def models_of(db: Connection, project_id: str) -> list[TunedModel]:
    """Return the models of a project, the newest first."""
    here = and_(tuned_models.c.project_id == project_id, tuned_models.c.deleted_s.is_(None))
    rows = db.execute(select(tuned_models).where(here).order_by(tuned_models.c.seq.desc())).all()
    return [_model(row) for row in rows]


def checkpoints_of(
    db: Connection, project_id: str, job_id: str, *, after: str | None = None, limit: int = 10
) -> Page[TunedModel]:
    """Return the checkpoints of a job, the highest step first.

    The final model stands for its step, where a checkpoint was made at that step too.

    Raises:
        UnknownCursorError: the job has no checkpoint `after`.
    """
    final = tuned_models.alias()
    of_last_step = exists().where(
        final.c.job_id == job_id, final.c.final, final.c.step == tuned_models.c.step
    )
    mine = and_(
        tuned_models.c.project_id == project_id,
        tuned_models.c.job_id == job_id,
        tuned_models.c.deleted_s.is_(None),
        or_(tuned_models.c.final, not_(of_last_step)),
    )
    query = select(tuned_models).where(mine).order_by(tuned_models.c.step.desc())
    if after is not None:
        this = and_(
            tuned_models.c.project_id == project_id,
            tuned_models.c.job_id == job_id,
            tuned_models.c.checkpoint_id == after,
        )
        query = query.where(tuned_models.c.step < place_of(db, tuned_models.c.step, this, after))
    return page_of(db, query, limit, _model)


def delete(db: Connection, project_id: str, name: str, *, now_s: float) -> TunedModel:
    """Take a model out of all lists, and return it; its job stays as it was, its files too.

    Raises:
        UnknownModelError: the project has no such model.
    """
    gone = update(tuned_models).where(_mine(project_id, name)).values(deleted_s=now_s)
    row = db.execute(gone.returning(tuned_models)).one_or_none()
    if row is None:
        raise UnknownModelError(f"The model '{name}' does not exist.")
    return _model(row)


def model_name(base: str, organization: str, suffix: str, *, step: int | None) -> str:
    """Return a new name; `step` is None for a final model."""
    own = "".join(secrets.choice(BASE58) for _ in range(8))
    name = f"ft:{base}:{organization}:{suffix}:{own}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def new_checkpoint_id() -> str:
    """Return a new id."""
    return f"ftckpt_{secrets.token_hex(16)}"


def publish(db: Connection, new: TunedModel) -> str:
    """Add a model, and return its name.

    A step that was published before keeps its first name: only its files may be newer ones, when
    the step was done again.
    """
    same = and_(
        tuned_models.c.job_id == new.job_id,
        tuned_models.c.step == new.step,
        tuned_models.c.final == new.final,
    )
    again = update(tuned_models).where(same)
    again = again.values(folder=new.folder, manifest_hash=new.manifest_hash)
    name: str | None = db.scalar(again.returning(tuned_models.c.name))
    if name is not None:
        return name
    db.execute(
        insert(tuned_models).values(
            name=new.name,
            checkpoint_id=new.checkpoint_id,
            project_id=new.project_id,
            job_id=new.job_id,
            base=new.base,
            step=new.step,
            final=new.final,
            folder=new.folder,
            manifest_hash=new.manifest_hash,
            metrics=msgspec.json.encode(new.metrics).decode(),
            created_s=new.created_s,
        )
    )
    return new.name


def _mine(project_id: str, name: str) -> Any:
    return and_(
        tuned_models.c.project_id == project_id,
        tuned_models.c.name == name,
        tuned_models.c.deleted_s.is_(None),
    )


def _model(row: Row[Any]) -> TunedModel:
    fields = row._asdict()
    del fields["seq"], fields["deleted_s"]
    fields["metrics"] = msgspec.json.decode(fields["metrics"])
    return TunedModel(**fields)
