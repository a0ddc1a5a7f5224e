"""How the pages about jobs say things: how far, what went wrong, what to do, what the gate says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from preftune.store.job_events import StoredEvent
from preftune.store.jobs import ENDED, Job
from preftune.store.tuned_models import TunedModel

STATES = {
    "validating_files": ("checking files", ""),
    "queued": ("queued", ""),
    "running": ("running", ""),
    "paused": ("paused", "warn"),
    "succeeded": ("succeeded", "good"),
    "failed": ("failed", "bad"),
    "cancelled": ("cancelled", ""),
}
MAY: dict[str, tuple[str, ...]] = {
    "validating_files": ("pause", "cancel"),
    "queued": ("pause", "cancel"),
    "running": ("pause", "cancel"),
    "paused": ("resume", "cancel"),
}
ADVICE = {
    "invalid_training_file": "Mend the rows named above, upload the file again, make a new job.",
    "invalid_validation_file": "Mend the validation file, upload it again, make a new job.",
    "invalid_n_examples": "Add rows, or let the server take fewer: least_examples in its settings.",
    "server_error": "The server kept failing at this job; the worker's log in its folder says why.",
}
OUTCOMES = {"ship": "good", "pass": "good", "don't ship": "bad", "fail": "bad"}
SHOWN_METRICS = ("train_loss", "full_valid_loss", "valid_loss", "train_mean_reward")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a job stands, in words and numbers."""

    words: str
    tone: str  # of the tag: good, warn, bad or empty
    lives: bool  # it can still change by itself
    done: int  # steps
    total: int  # 0: not known yet
    how_far: str
    left: str  # how long it takes yet, or took
    may: tuple[str, ...]  # pause, resume, cancel


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Why a job failed, and what to do."""

    code: str
    message: str
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What one rule of the gate says."""

    name: str
    outcome: str
    tone: str
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says of the final model."""

    verdict: str
    tone: str
    why: str  # it could not be run
    rules: tuple[Rule, ...]
    measures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A checkpoint of a job."""

    name: str
    step: int
    figures: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a job's history."""

    at: str
    message: str
    tone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """A number that somebody asked for, and the one that was used."""

    name: str
    asked: str
    used: str


def progress_of(job: Job, *, step: int, now_s: float) -> Progress:
    """Return where a job stands; `step` is the last one it told of."""
    words, tone = STATES[job.state]
    if job.asked == "pause":
        words = "pausing after a checkpoint"
    done, total = max(step, job.step), job.total_steps or 0
    if job.state == "succeeded":
        done = total = max(done, total)
    return Progress(
        words=words,
        tone=tone,
        lives=job.state not in (*ENDED, "paused"),
        done=done,
        total=total,
        how_far=f"step {done:,} of {total:,}" if total else "",
        left=_left(job, now_s),
        may=tuple(wish for wish in MAY.get(job.state, ()) if not (job.asked and wish == "pause")),
    )


def trouble_of(job: Job) -> Trouble | None:
    """Return why a job failed; None when it did not."""
    if job.error is None:
        return None
    code = str(job.error.get("code") or "failed")
    advice = ADVICE.get(code, "Change what the message names, and make a new job.")
    return Trouble(code=code, message=str(job.error.get("message") or ""), advice=advice)


def verdict_of(job: Job) -> Verdict | None:
    """Return what the gate said; None for a job without a gate, or before its end."""
    if job.verdict is None:
        return None
    rules = tuple(
        Rule(
            name=str(rule.get("name", "")),
            outcome=str(rule.get("outcome", "")),
            tone=OUTCOMES.get(str(rule.get("outcome")), "warn"),
            sentence=str(rule.get("sentence", "")),
        )
        for rule in job.verdict.get("results", ())
    )
    said = str(job.verdict.get("verdict", ""))
    return Verdict(
        verdict=said,
        tone=OUTCOMES.get(said, "warn"),
        why=str(job.verdict.get("why", "")),
        rules=rules,
        measures=tuple(_measured(one) for one in job.verdict.get("measures", ())),
    )


def made(model: TunedModel) -> Made:
    """Return a checkpoint as the page shows it."""
    figures = [
        f"{name.replace('_', ' ')} {short(model.metrics[name])}"
        for name in SHOWN_METRICS
        if model.metrics.get(name) is not None
    ]
    return Made(name=model.name, step=model.step, figures=", ".join(figures))


def line(event: StoredEvent, at: str) -> Line:
    """Return an event as the page shows it."""
    tone = {"error": "bad", "warn": "warn"}.get(event.level, "")
    return Line(at=at, message=event.message, tone=tone)


def used(job: Job) -> list[Used]:
    """Return the hyperparameters: as asked, "auto" where nothing was, and as used once known."""
    asked = asked_numbers(job.request, job.method)
    names = dict.fromkeys([*job.resolved, *asked])
    return [
        Used(
            name=name,
            asked=short(asked.get(name, "auto")),
            used=short(job.resolved.get(name, "auto")).replace("auto", "not known yet"),
        )
        for name in names
    ]


def asked_numbers(request: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the hyperparameters of a request, also from their old place beside `method`."""
    found = dict(request.get("hyperparameters") or {})
    own = (request.get("method") or {}).get(method) or {}
    return found | dict(own.get("hyperparameters") or {})


def pretty(value: Any) -> str:
    """Return JSON on several lines."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _measured(measure: Mapping[str, Any]) -> str:
    """Return a measure with its interval, such as "length_tokens 34 (30 to 38) tokens"."""
    low, high = measure.get("low"), measure.get("high")
    interval = "" if low is None or high is None else f" ({short(low)} to {short(high)})"
    value = f"{measure.get('name', '')} {short(measure.get('value'))}{interval}"
    return f"{value} {measure.get('unit') or ''}".rstrip()


def _left(job: Job, now_s: float) -> str:
    if job.finished_s is not None and job.started_s is not None:
        return f"took {_span(job.finished_s - job.started_s)}"
    if job.state == "running" and job.estimated_finish_s is not None:
        return f"about {_span(max(0.0, job.estimated_finish_s - now_s))} left"
    return ""


def _span(seconds: float) -> str:
    """Return a span of time in words: 50 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def short(value: Any) -> str:
    """Return a value as a page shows it; numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
