"""Where jobs lie on the disk, and what a worker is told of its job.

FILES/jobs/JOB/rows/         the rows, linked once: a file that is deleted later stays here
FILES/jobs/JOB/attempt-N/    of the worker with fence N, who alone writes there
    job.json  worker.json  worker.log
    run/  models/step-000123/  result.csv
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sqlalchemy import Connection, select

from preftune.errors import DataError
from preftune.files import make_folder, read_json, write_json
from preftune.serving.api.settings import ApiSettings
from preftune.serving.base_models import BaseModels, Found, find_model
from preftune.serving.child import started_at
from preftune.store.api_files import path_of
from preftune.store.database import Database
from preftune.store.job_schema import api_files
from preftune.store.jobs import Job
from preftune.wire.job import SPEC_FILE, JobSpec, Problem

WORKER_FILE, LOG_FILE, RUN = "worker.json", "worker.log", "run"


class UnusableJobError(DataError):
    """A job cannot begin, since a model or file it needs is gone; `problem` is for its user."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem

    def __reduce__(self) -> tuple[type["UnusableJobError"], tuple[Problem]]:
        """Keep the error picklable."""
        return type(self), (self.problem,)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRecord:
    """Which process works on an attempt, and which server started it."""

    pid: int
    started: str  # see `started_at`: numbers of processes are used again
    server_pid: int
    server_started: str

    @property
    def runs(self) -> bool:
        """Whether the worker is there still."""
        return bool(self.started) and started_at(self.pid) == self.started

    @property
    def server_runs(self) -> bool:
        """Whether the server that started it is there still."""
        return bool(self.server_started) and started_at(self.server_pid) == self.server_started


def job_folder(files: Path, job_id: str) -> Path:
    """Return the folder of a job, all attempts in it."""
    return files / "jobs" / job_id


def attempt_folder(files: Path, job_id: str, fence: int) -> Path:
    """Return the folder of one attempt; equal fences are one attempt."""
    return job_folder(files, job_id) / f"attempt-{fence}"


def earlier_attempt(files: Path, job_id: str, fence: int) -> Path | None:
    """Return the folder of the newest attempt before this one that had begun to train."""
    numbers = (
        int(folder.name.removeprefix("attempt-"))
        for folder in job_folder(files, job_id).glob("attempt-*")
        if (folder / RUN).is_dir()
    )
    newest = max((number for number in numbers if number < fence), default=None)
    return None if newest is None else attempt_folder(files, job_id, newest)


def write_spec(
    database: Database,
    db: Connection,
    job: Job,
    *,
    bases: BaseModels,
    api: ApiSettings,
    server: str,
) -> Path:
    """Make the folder of an attempt with all that its worker needs, and return its `job.json`.

    Raises:
        UnusableJobError: the model or a file is not there any more.
        OSError: the disk is full or broken.
    """
    found = find_model(db, bases, job.project_id, job.model, files=database.files)
    if found is None:
        message = f"The model '{job.model}' is not here any more. Start a job on another."
        raise UnusableJobError(Problem(code="model_not_available", message=message, param="model"))
    training, training_name = _rows(database, db, job, "training_file", job.training_file)
    validation, validation_name = Path(), ""
    if job.validation_file is not None:
        validation, validation_name = _rows(
            database, db, job, "validation_file", job.validation_file
        )
    folder = attempt_folder(database.files, job.id, job.fence)
    make_folder(folder)
    earlier = earlier_attempt(database.files, job.id, job.fence)
    spec = JobSpec(
        job_id=job.id,
        fence=job.fence,
        server=server,
        folder=str(folder.resolve()),
        earlier=str(earlier.resolve()) if earlier else "",
        model=str(found.folder.resolve()),
        base=str(found.base.resolve()),
        training=str(training.resolve()),
        training_name=training_name,
        validation=str(validation.resolve()) if validation_name else "",
        validation_name=validation_name,
        method=job.method,  # type: ignore[arg-type]  # one of the three, checked when it was made
        hyperparameters=job.resolved,
        grader=job.request.get("grader"),
        extras=job.request.get("preftune") or {},
        seed=job.seed,
        least_examples=api.least_examples,
        threads=threads_for(api),
        python_graders=api.python_graders,
        models=_models(database, db, job, bases, found),
    )
    write_json(folder / SPEC_FILE, msgspec.to_builtins(spec))
    return folder / SPEC_FILE


def threads_for(api: ApiSettings) -> int:
    """Return the threads of each job: as set, else its share of all processors but one."""
    spare = len(os.sched_getaffinity(0)) - 1
    return api.job_threads or max(1, spare // max(1, api.max_jobs))


def write_worker(folder: Path, pid: int) -> None:
    """Note which process works in a folder."""
    me = os.getpid()
    record = WorkerRecord(
        pid=pid, started=started_at(pid), server_pid=me, server_started=started_at(me)
    )
    write_json(folder / WORKER_FILE, msgspec.to_builtins(record))


def read_worker(folder: Path) -> WorkerRecord | None:
    """Return which process works, or has worked, in a folder; None where none was started."""
    try:
        return msgspec.convert(read_json(folder / WORKER_FILE), WorkerRecord)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def _rows(
    database: Database, db: Connection, job: Job, param: str, file_id: str
) -> tuple[Path, str]:
    """Return a file's rows, and the name that its user gave it; deleted ones are kept for jobs."""
    mine = (api_files.c.id == file_id) & (api_files.c.project_id == job.project_id)
    row = db.execute(select(api_files.c.sha256, api_files.c.filename).where(mine)).one_or_none()
    if row is not None:
        path = path_of(database, job.project_id, row.sha256)
        if path.is_file():
            return path, row.filename
    message = f"The file {file_id} is not here any more. Upload it again, and start another job."
    raise UnusableJobError(Problem(code=f"invalid_{param}", message=message, param=param))


def _models(
    database: Database, db: Connection, job: Job, bases: BaseModels, found: Found
) -> dict[str, str]:
    """Return the folders of the models that a grader or a gate of the job may name."""
    named = {name: str(folder.resolve()) for name, folder in bases.folders.items()}
    for name in names_in(job.request):
        other = find_model(db, bases, job.project_id, name, files=database.files)
        if other is not None:
            named[name] = str(other.folder.resolve())
    return {**named, found.name: str(found.folder.resolve())}


def names_in(value: object) -> set[str]:
    """Return every text in a job's request that looks like the name of a tuned model."""
    if isinstance(value, str):
        return {value} if value.startswith("ft:") else set()
    if isinstance(value, dict):
        value = list(value.values())
    parts = [names_in(part) for part in value] if isinstance(value, list) else []
    return set().union(*parts)
