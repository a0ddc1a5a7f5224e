"""Where a client asks for jobs: everything a job needs is looked at before it is made."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from sqlalchemy import Connection

from preftune.datasets.job_rows import check_rows
from preftune.errors import SettingsError
from preftune.graders.item_names import names_problem
from preftune.graders.rft_rows import read_rft_rows
from preftune.graders.specs import Grader, PythonGrader, leaves
from preftune.graders.specs import validate as validate_grader
from preftune.jobs.extras import check_extras
from preftune.serving.api.access import Caller
from preftune.serving.api.asking import Models, Served, writes_nothing
from preftune.serving.api.errors import ApiError
from preftune.serving.api.grader_models import models_asked
from preftune.serving.api.jobs_bodies import MOST_SEED, JobRequest, Reinforcement
from preftune.serving.api.models import no_model
from preftune.serving.api.settings import ApiSettings
from preftune.serving.base_models import BaseModels
from preftune.serving.supervisor import Supervisor
from preftune.store import jobs
from preftune.store.api_files import ApiFile, UnknownFileError, file_of, path_of
from preftune.store.database import Database
from preftune.store.job_errors import UnknownJobError, WrongStateError
from preftune.store.job_events import tell
from preftune.store.jobs import Job, NewJob, What
from preftune.store.pages import UnknownCursorError
from preftune.training.loss_table import check_beta

T = TypeVar("T")
PURPOSE = "fine-tune"
OF_THE_JOB = "method.reinforcement.grader"  # in a request
FULL_S = 30.0  # to wait before asking again, when too many jobs wait
PROBLEMS_IN = {"training_file": "", "validation_file": "The validation file has problems. "}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDesk:
    """The jobs of one project, and what the server has for them."""

    database: Database
    api: ApiSettings
    bases: BaseModels
    supervisor: Supervisor
    project_id: str
    key_id: str

    @classmethod
    def of(cls, request: Request, caller: Caller) -> "JobDesk":
        """Return the jobs of whoever asks."""
        state = request.app.state
        return cls(
            database=state.database,
            api=state.api,
            bases=state.base_models,
            supervisor=state.supervisor,
            project_id=caller.project_id,
            key_id=caller.key_id,
        )

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what is found in the store.

        Raises:
            ApiError: 400, a page was asked for from behind a row that is not in the list.
        """
        try:
            with self.database.read() as db:
                return work(db)
        except UnknownCursorError as error:
            raise ApiError(400, str(error), param="after") from error

    def job(self, job_id: str) -> Job:
        """Return a job of the project.

        Raises:
            ApiError: 404.
        """
        try:
            return self.read(lambda db: jobs.job(db, self.project_id, job_id))
        except UnknownJobError as error:
            raise _no_job(error) from error

    def ask(self, job_id: str, what: What) -> Job:
        """Cancel, pause or resume a job.

        Raises:
            ApiError: 404, no such job; 400, it cannot do this as it stands.
        """
        try:
            return self.database.write(
                lambda db: jobs.ask(db, self.project_id, job_id, what, now_s=time.time())
            )
        except UnknownJobError as error:
            raise _no_job(error) from error
        except WrongStateError as error:
            raise ApiError(400, str(error), code="wrong_state") from error

    def checked(self, sent: JobRequest) -> NewJob:
        """Return the job that was asked for, every part of it looked at.

        Raises:
            ApiError: 400, which part is wrong and why.
        """
        self._check_method(sent)
        training, validation = self.read(lambda db: self._there(db, sent))
        small = max(training.bytes, validation.bytes if validation else 0)
        now = small <= 1024 * self.api.check_kib
        if now:
            self._check_rows(sent, training, "training_file", least=self.api.least_examples)
            if validation is not None:
                self._check_rows(sent, validation, "validation_file", least=1)
        return NewJob(
            project_id=self.project_id,
            key_id=self.key_id,
            model=sent.model,
            method=sent.method.type,
            request=_request(sent),
            resolved=sent.numbers,
            training_file=sent.training_file,
            validation_file=sent.validation_file,
            seed=secrets.randbelow(MOST_SEED) if sent.seed is None else sent.seed,
            suffix=sent.suffix or "",
            metadata=sent.metadata,
            state="queued" if now else "validating_files",
        )

    def make(self, db: Connection, new: NewJob, sent: JobRequest) -> Job:
        """Add a job, unless too many of the project wait; within a write.

        Raises:
            ApiError: 429, too many wait; 400, a model or a file has gone in between.
        """
        self._there(db, sent)
        if jobs.count_waiting(db, self.project_id) >= self.api.max_queued:
            raise ApiError(
                429,
                f"{self.api.max_queued} jobs of this project wait already. Try again when one has "
                "ended.",
                code="queue_full",
                retry_after_s=FULL_S,
            )
        now_s = time.time()
        job = jobs.create(db, new, now_s=now_s)
        notes = [
            jobs.said(f"note-{number}", note, now_s, level="warn")
            for number, note in enumerate(_notes(sent))
        ]
        tell(db, job.id, notes)
        return jobs.job(db, self.project_id, job.id)

    def _there(self, db: Connection, sent: JobRequest) -> tuple[ApiFile, ApiFile | None]:
        """Return the files of a job, once all models that it needs are known to be there."""
        models = Models(database=self.database, bases=self.bases, project_id=self.project_id)
        check_start(models.look_up(db, sent.model), sent.model)
        for where, grader in graders_in(sent):
            for name, reward_may in models_asked(grader):
                check_asked(models.look_up(db, name), name, f"{where}.model", reward_may=reward_may)
        training = self._file(db, sent.training_file, "training_file")
        if sent.validation_file is None:
            return training, None
        return training, self._file(db, sent.validation_file, "validation_file")

    def _file(self, db: Connection, file_id: str, param: str) -> ApiFile:
        try:
            found = file_of(db, self.project_id, file_id, now_s=time.time())
        except UnknownFileError as error:
            raise ApiError(400, str(error), param=param, code=f"invalid_{param}") from error
        if found.purpose != PURPOSE:
            raise ApiError(
                400,
                f"{file_id} has the purpose '{found.purpose}'. Upload it for '{PURPOSE}'.",
                param=param,
                code=f"invalid_{param}",
            )
        return found

    def _check_method(self, sent: JobRequest) -> None:
        """Check the extension and the graders, by the rules of those who will use them."""
        extras, part = sent.method.preftune, sent.method.part
        beta = sent.numbers.get("beta", "auto")
        beta = None if beta == "auto" else beta
        with refused("method.preftune"):
            check_extras(sent.method.type, extras, beta=beta)
        with refused("method.dpo.hyperparameters.beta"):
            check_beta(extras.get("loss", "sigmoid"), beta)
        for where, grader in graders_in(sent):
            python = any(isinstance(leaf, PythonGrader) for leaf in leaves(grader).values())
            if python and not self.api.python_graders:
                raise ApiError(
                    403,
                    "Graders of type python are switched off on this server. Use another type.",
                    param=where,
                    code="python_graders_off",
                )
        if not isinstance(part, Reinforcement):
            return
        if part.response_format and part.response_format.get("type") != "text":
            raise ApiError(
                400,
                "Answers are not held to a format here. Leave it out, and let the grader judge it.",
                param="method.reinforcement.response_format",
                code="unsupported_parameter",
            )

    def _check_rows(self, sent: JobRequest, file: ApiFile, param: str, *, least: int) -> None:
        """Check a small file row by row."""
        path = path_of(self.database, self.project_id, file.sha256)
        report = check_rows(path, file.filename, method=sent.method.type)
        if report.problems:
            what = PROBLEMS_IN[param] + report.problems[0].message
            raise ApiError(400, what, param=param, code=f"invalid_{param}")
        if report.examples < least:
            raise ApiError(
                400,
                f"{PROBLEMS_IN[param]}{file.filename} has {report.examples} example(s), "
                f"but must have at least {least}.",
                param=param,
                code="invalid_n_examples",
            )
        if isinstance(sent.method.part, Reinforcement):
            items = (row.item for row in read_rft_rows(path))
            grader = dict(graders_in(sent))[OF_THE_JOB]
            if problem := names_problem(grader, items, file.filename):
                raise ApiError(400, problem, param=OF_THE_JOB, code="invalid_value")


def graders_in(sent: JobRequest) -> Iterator[tuple[str, Grader]]:
    """Yield the graders of a job, its own and its gate's, each with its place in the request.

    Raises:
        ApiError: 400, it is none.
    """
    part, gate = sent.method.part, sent.method.preftune.get("gate") or {}
    given = {"method.preftune.gate.grader": gate.get("grader") or None}
    if isinstance(part, Reinforcement):
        given[OF_THE_JOB] = part.grader
    for where, grader in given.items():
        if grader is not None:
            with refused(where):
                found = validate_grader(grader)
            yield where, found


def check_start(found: Served | None, name: str) -> None:
    """Refuse a model that cannot be tuned.

    Raises:
        ApiError: 400, there is none of this name, or it writes no text.
    """
    if found is not None and found.is_reward:
        raise writes_nothing(name, param="model")
    if found is None:
        raise ApiError(
            400,
            f"The model '{name}' is not available for fine-tuning. Take one of GET /v1/models.",
            param="model",
            code="model_not_available",
        )


def check_asked(found: Served | None, name: str, param: str, *, reward_may: bool) -> None:
    """Refuse a model that a grader cannot ask, as POST …/graders/run does.

    Raises:
        ApiError: 400, there is none of this name, or it writes no text where one must.
    """
    if found is None:
        message = no_model(name).message
        raise ApiError(400, message, param=param, code="model_not_available")
    if found.is_reward and not reward_may:
        raise writes_nothing(name, param=param)


@contextmanager
def refused(param: str) -> Iterator[None]:
    """Turn what our own checks say of a setting into a refusal that names the parameter."""
    try:
        yield
    except SettingsError as error:
        raise ApiError(400, str(error), param=param, code="invalid_value") from error


def _request(sent: JobRequest) -> dict[str, Any]:
    """Return what is kept of a request beside the columns of the table."""
    method = sent.method
    part = method.part.model_dump(exclude_none=True)
    shown: dict[str, Any] = {"type": method.type}
    shown[method.type] = {**part, "hyperparameters": sent.numbers}
    if method.preftune:
        shown["preftune"] = method.preftune
    told = [one.model_dump(exclude_none=True) for one in sent.integrations or []]
    return {
        "method": shown,
        "grader": part.get("grader"),
        "preftune": method.preftune,
        "integrations": told or None,
    }


def _notes(sent: JobRequest) -> Iterator[str]:
    """Yield what was asked for and changes nothing here."""
    if sent.integrations:
        yield "The integrations are kept with the job; this server sends nothing elsewhere"
    if sent.numbers.get("reasoning_effort", "default") != "default":
        yield "reasoning_effort is kept with the job; the models here have no such setting"


def _no_job(error: UnknownJobError) -> ApiError:
    return ApiError(404, str(error), param="fine_tune_id", code="fine_tune_not_found")
