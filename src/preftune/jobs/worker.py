"""One attempt at a job, from its rows to its last word."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from preftune.datasets.job_rows import RowsReport, check_rows
from preftune.files import disk_trouble_named, read_json, write_atomic
from preftune.graders.item_names import names_problem
from preftune.graders.rft_rows import read_rft_rows
from preftune.graders.specs import validate
from preftune.jobs.auto import parameters_in, resolve
from preftune.jobs.clone import MODELS, NOTES, RUN, take_over
from preftune.jobs.extras import read_extras
from preftune.jobs.failures import (
    TRAINING,
    VALIDATION,
    File,
    InvalidFileError,
)
from preftune.jobs.figures import checkpoint_metrics, result_csv, step_event, trained_tokens
from preftune.jobs.gate import check_possible, verdict_of
from preftune.jobs.gate_spec import JobGate, read_gate_spec
from preftune.jobs.looking_on import JobObserver, checkpoint_of
from preftune.jobs.mapping import settings_of
from preftune.jobs.reporter import Reporter
from preftune.jobs.rewards import graders_of
from preftune.jobs.servable import Start, manifest_hash
from preftune.models.load import read_config
from preftune.training import direct, rft, sft
from preftune.training.logs import read_rows
from preftune.training.loss_sum import resolved
from preftune.training.policy_settings import RftSettings
from preftune.training.settings import DirectSettings, SftSettings
from preftune.wire.job import Event, Finish, JobSpec

RESULT = "result.csv"


def run_job(spec: JobSpec, reporter: Reporter, observers: list[JobObserver]) -> Finish:
    """Do a job in the current folder, and return its last word when it has succeeded.

    Args:
        spec: the job.
        reporter: tells the server.
        observers: gets the one that looks on, for whoever ends the job early.

    Raises:
        PreftuneError: why it cannot be done.
        KeyboardInterrupt: it was asked to stop; `run/` holds where it is.
    """
    with disk_trouble_named(Path("job")):
        if spec.earlier:
            take_over(Path(spec.earlier))
        _link_rows(spec)
        _tell_again(spec, reporter)
        own, theirs = read_extras(spec.method, spec.extras)
        wanted = read_gate_spec(own.gate) if own.gate is not None else None
        if wanted is not None:
            check_possible(spec)
        numbers, rows = _numbers(spec)
        start = Start(model=spec.model, base=spec.base)
        folder = start.folder()
        settings = settings_of(
            spec,
            numbers,
            own,
            theirs,
            model=folder,
            rows=rows,
            parameters=parameters_in(Path(spec.base)),
            most_tokens=read_config(folder).max_length,
        )
        if isinstance(settings, DirectSettings):
            numbers |= _beta_of(settings)
        observer = JobObserver(
            method=spec.method,
            seed=spec.seed,
            hyperparameters=numbers,
            extras=own,
            reporter=reporter,
            start=start,
            rows=rows,
            validation=Path(VALIDATION) if spec.validation else None,
            samples=numbers.get("eval_samples", 1),
        )
        observers.append(observer)
        final = train(spec, settings, observer)
        return _succeeded(spec, start, final, wanted)


def train(
    spec: JobSpec, settings: SftSettings | DirectSettings | RftSettings, observer: JobObserver
) -> Path:
    """Train by the product's own method, and return the folder of the tuned model."""
    match settings:
        case SftSettings():
            return sft.train(settings, observer=observer)
        case DirectSettings():
            return direct.train(settings, observer=observer)
        case RftSettings():
            files = [Path(TRAINING), *([Path(VALIDATION)] if spec.validation else [])]
            with graders_of(spec, files) as (runner, scorer):
                observer.runner = runner
                return rft.train(settings, scorer=scorer, observer=observer)


def _beta_of(settings: DirectSettings) -> dict[str, float]:
    """Return the beta that a loss is used with; a loss without one has none."""
    beta = resolved(settings).beta
    return {} if beta is None else {"beta": beta}


def _link_rows(spec: JobSpec) -> None:
    """Give the rows names in this folder, so that messages and settings hold no other."""
    for name, path in ((TRAINING, spec.training), (VALIDATION, spec.validation)):
        if path and not Path(name).is_symlink():
            Path(name).symlink_to(path)


def _tell_again(spec: JobSpec, reporter: Reporter) -> None:
    """Tell all that an earlier attempt may not have been able to tell; the rest is known."""
    if not Path(NOTES).exists():
        return
    notes, now_s = read_json(Path(NOTES)), time.time()
    rows = read_rows(RUN / "metrics.jsonl")
    reporter.standing.total = notes["total_steps"]
    for row in rows:
        reporter.tell(step_event(spec.method, row, total=notes["total_steps"], now_s=now_s))
        folder = MODELS / f"step-{row['step'] + 1:06d}"
        if folder.is_dir() and row["step"] + 1 < notes["total_steps"]:
            reporter.tell(checkpoint_of(spec.fence, folder, spec.method, row))
    if rows:
        text = f"Going on after step {len(rows)} of {notes['total_steps']}"
        reporter.tell(Event(key=f"resumed-{spec.fence}", message=text, created_s=now_s))


def _numbers(spec: JobSpec) -> tuple[dict[str, Any], int]:
    """Return the hyperparameters and the number of rows; the rows are read when a job begins.

    Raises:
        InvalidFileError: rows that cannot be used, or too few.
    """
    if Path(NOTES).exists():
        notes = read_json(Path(NOTES))
        return cast(dict[str, Any], notes["hyperparameters"]), int(notes["rows"])
    report = _checked(spec, Path(spec.training), spec.training_name, "training_file")
    if report.examples < spec.least_examples:
        raise InvalidFileError(
            "invalid_n_examples",
            f"{spec.training_name} has {report.examples} example(s), but must have at least "
            f"{spec.least_examples}.",
            "training_file",
        )
    if spec.validation:
        _checked(spec, Path(spec.validation), spec.validation_name, "validation_file")
    return resolve(spec.method, spec.hyperparameters, rows=report.examples), report.examples


def _checked(spec: JobSpec, path: Path, name: str, param: File) -> RowsReport:
    """Return what is in a file of rows.

    Raises:
        InvalidFileError: names the first bad rows.
    """
    report = check_rows(path, name, method=spec.method)
    if not report.problems:
        if spec.grader is not None:
            items = (row.item for row in read_rft_rows(path))
            if problem := names_problem(validate(spec.grader), items, name):
                raise InvalidFileError(f"invalid_{param}", problem, param)
        return report
    what = "The validation file has problems. " if param == "validation_file" else ""
    shown = " ".join(problem.message for problem in report.problems[:5])
    more = report.bad - min(5, len(report.problems))
    rest = f" And {more} more bad rows." if more > 0 else ""
    raise InvalidFileError(f"invalid_{param}", f"{what}{shown}{rest}", param)


def _succeeded(spec: JobSpec, start: Start, final: Path, wanted: JobGate | None) -> Finish:
    """Leave the final model and the result file, and return the last word."""
    rows: list[Mapping[str, Any]] = list(read_rows(RUN / "metrics.jsonl"))
    folder = start.publish_again(final, len(rows))
    write_atomic(Path(RESULT), result_csv(spec.method, rows))
    verdict = None
    if wanted is not None:
        verdict = verdict_of(spec, wanted, start=start.folder(), tuned=folder)
    return Finish(
        fence=spec.fence,
        outcome="succeeded",
        step=len(rows),
        folder=str(folder),
        manifest_hash=manifest_hash(folder),
        metrics=checkpoint_metrics(spec.method, rows[-1]),
        result_csv=RESULT,
        trained_tokens=trained_tokens(rows),
        verdict=verdict,
    )
