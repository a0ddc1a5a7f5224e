"""Jobs, their history and their checkpoints as clients see them."""

from typing import Any, cast

from preftune.serving.api.hyperparameters import shown
from preftune.serving.api.jobs_bodies import (
    CheckpointAnswer,
    CheckpointMetrics,
    EventAnswer,
    Extended,
    JobAnswer,
    JobError,
    ShownHyperparameters,
)
from preftune.serving.api.settings import ApiSettings
from preftune.store.job_events import StoredEvent
from preftune.store.jobs import Job
from preftune.store.tuned_models import TunedModel


def job_answer(job: Job, api: ApiSettings) -> JobAnswer:
    """Return a job; its numbers are those asked for until the worker has settled them."""
    method = _method(job)
    numbers = method[job.method]["hyperparameters"]
    return JobAnswer(
        id=job.id,
        model=job.model,
        created_at=int(job.created_s),
        finished_at=_whole(job.finished_s),
        estimated_finish=_whole(job.estimated_finish_s),
        fine_tuned_model=job.fine_tuned_model,
        organization_id=f"org-{api.organization}",
        result_files=list(job.result_files),
        status=job.state,
        training_file=job.training_file,
        validation_file=job.validation_file,
        hyperparameters=ShownHyperparameters.model_validate(shown(numbers)),
        trained_tokens=job.trained_tokens,
        error=JobError(**job.error) if job.error else None,
        seed=job.seed,
        integrations=job.request.get("integrations"),
        metadata=job.metadata,
        method=method,
        user_provided_suffix=job.suffix or None,
        preftune=Extended(
            step=job.step,
            total_steps=job.total_steps,
            why=job.why or None,
            verdict=job.verdict,
        ),
    )


def event_answer(event: StoredEvent) -> EventAnswer:
    """Return one line of a history."""
    return EventAnswer(
        id=event.id,
        created_at=int(event.created_s),
        level=cast(Any, event.level),
        message=event.message,
        type=cast(Any, event.type),
        data=event.data,
    )


def checkpoint_answer(model: TunedModel) -> CheckpointAnswer:
    """Return a checkpoint; the final model is the last of them."""
    return CheckpointAnswer(
        id=model.checkpoint_id,
        created_at=int(model.created_s),
        fine_tuned_model_checkpoint=model.name,
        fine_tuning_job_id=model.job_id,
        metrics=CheckpointMetrics(**{**model.metrics, "step": model.step}),
        step_number=model.step,
    )


def _method(job: Job) -> dict[str, Any]:
    """Return the method as it was asked for, with the numbers that are known by now."""
    asked: dict[str, Any] = job.request["method"]
    part: dict[str, Any] = asked[job.method]
    numbers = {
        name: job.resolved.get(name, given) for name, given in part["hyperparameters"].items()
    }
    return {**asked, job.method: {**part, "hyperparameters": numbers}}


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
