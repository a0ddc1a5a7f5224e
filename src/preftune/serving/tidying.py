"""What stays of a job that has ended: models, logs and results, not what it could go on from."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from preftune.files import delete_folder
from preftune.serving.job_folders import RUN, job_folder
from preftune.store.database import Database
from preftune.store.job_schema import tuned_models
from preftune.store.jobs import ENDED, any_job

MODELS, START, CHECKPOINTS = "models", "start", "checkpoints"  # as the workers name them


def tidy(database: Database, job_id: str) -> int:
    """Delete the checkpoints of a job that has ended, and the models that no name stands for.

    Returns:
        How many folders went; 0 for a job that may go on.

    Raises:
        UnknownJobError: no such job.
        OSError: the disk does not let them go.
    """
    mine = tuned_models.c.job_id == job_id
    with database.read() as db:
        ended = any_job(db, job_id).state in ENDED
        rows = select(tuned_models.c.folder).where(mine, tuned_models.c.deleted_s.is_(None))
        named = {database.files / folder for folder in db.scalars(rows)}
    gone = 0
    for folder in _heavy(job_folder(database.files, job_id)) if ended else ():
        if folder.is_dir() and folder not in named:
            delete_folder(folder)
            gone += 1
    return gone


def _heavy(job: Path) -> Iterator[Path]:
    for attempt in job.glob("attempt-*"):
        yield from (attempt / MODELS).glob("*")
        yield attempt / START
        yield attempt / RUN / CHECKPOINTS
