"""Looks on while a job trains: measures on validation rows, tells of steps, publishes models."""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preftune.files import write_json
from preftune.jobs.auto import responses
from preftune.jobs.clone import NOTES
from preftune.jobs.extras import ExtraSettings, Method
from preftune.jobs.figures import checkpoint_metrics, step_event
from preftune.jobs.reporter import Reporter
from preftune.jobs.rewards import CountingRunner, by_grader
from preftune.jobs.servable import Start, manifest_hash
from preftune.training.observer import Trainee
from preftune.wire.job import Checkpoint, Started

SAMPLED = 64  # validation rows in a look between epochs
LOOKS = 50  # about as many, unless a job says otherwise


@dataclass(kw_only=True, slots=True)
class JobObserver:
    """The `training.observer.Observer` of one attempt at a job.

    Attributes:
        method: of the job.
        seed: of the job.
        hyperparameters: resolved; the server hears of them when training begins.
        extras: how often to measure and to publish.
        reporter: who tells the server.
        start: what the job starts from.
        rows: of the training file.
        validation: rows to measure on.
        samples: responses to each validation prompt.
        runner: of a reinforcement job's grader.
    """

    method: Method
    seed: int
    hyperparameters: Mapping[str, Any]
    extras: ExtraSettings
    reporter: Reporter
    start: Start
    rows: int
    validation: Path | None = None
    samples: int = 1
    runner: CountingRunner | None = None
    pausing: bool = False
    row: dict[str, Any] = field(default_factory=dict)
    batches: Iterator[list[int]] | None = None
    began_s: float = 0.0
    first: int = 0  # step of this attempt's beginning
    _trainee: Trainee | None = None

    @property
    def trainee(self) -> Trainee:
        """Whom it looks at."""
        if self._trainee is None:
            raise ValueError("training has not begun")
        return self._trainee

    @property
    def learning(self) -> bool:
        """Whether a step has been made."""
        return self.batches is not None

    def meet(self, trainee: Trainee) -> None:
        """Tell the server that training begins."""
        self._trainee = trainee
        total = trainee.order.steps
        numbers = dict(self.hyperparameters)
        notes = {"total_steps": total, "hyperparameters": numbers, "rows": self.rows}
        write_json(Path(NOTES), notes)
        self.reporter.standing.total = total
        self.reporter.tell(
            Started(fence=self.reporter.spec.fence, hyperparameters=numbers, total_steps=total)
        )

    def figures(self, step: int, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Return what is measured after a step, besides its metrics."""
        if self.batches is None:
            self.batches = self.trainee.order.batches(start=step)
            self.began_s, self.first = time.time(), step
        lengths = self.trainee.order.lengths
        tokens = float(sum(lengths[number] for number in next(self.batches)))
        if self.runner is None:
            found = {"step_tokens": tokens}
        else:
            found = self._rewards(self.runner, metrics, tokens)
        found |= self._validated(step + 1)
        self.row = {"step": step, **metrics, **found}
        return found

    def _rewards(
        self, runner: CountingRunner, metrics: Mapping[str, float], prompt_tokens: float
    ) -> dict[str, float]:
        """Return what the grader said of a step's responses, and how many tokens they are."""
        results = runner.taken()
        per_prompt = responses(self.hyperparameters["compute_multiplier"])
        return {
            "step_tokens": per_prompt * prompt_tokens + len(results) * metrics["length_tokens"],
            "mean_unresponsive_rewards": metrics["unscored"] / max(1, len(results)),
            **by_grader(runner, results, "train"),
        }

    def _validated(self, done: int) -> dict[str, float]:
        """Return figures of all validation rows where it is time for that, else of some."""
        trainee = self.trainee
        rows = range(trainee.validation_rows)
        if not rows:
            return {}
        found: dict[str, float] = {}
        if self._whole_look(done):
            everything = trainee.validate(rows, done)
            found = {f"full_valid_{name}": value for name, value in everything.items()}
            found |= self._parse_errors()
            if len(rows) <= SAMPLED:
                return found | _sampled(everything)
        if self.method != "reinforcement" and (found or self._due(done)):
            some = random.Random(f"{self.seed}/{done}").sample(rows, min(SAMPLED, len(rows)))
            found |= _sampled(trainee.validate(sorted(some), done))
        return found

    def _whole_look(self, done: int) -> bool:
        """Whether all validation rows are looked at after so many steps."""
        order = self.trainee.order
        every = self.hyperparameters.get("eval_interval", order.steps_per_epoch)
        return done % every == 0 or done == order.steps

    def _due(self, done: int) -> bool:
        every = self.extras.eval_every or max(1, self.trainee.order.steps // LOOKS)
        return done % every == 0

    def _parse_errors(self) -> dict[str, float]:
        """Return what the grader said of validation responses."""
        if self.runner is None:
            return {}
        results = self.runner.taken()
        wrong = sum(result.metadata.errors.sample_parse_error for result in results)
        share = {"full_valid_mean_parse_error": wrong / max(1, len(results))}
        return share | by_grader(self.runner, results, "valid")

    def stops(self) -> bool:
        """Whether the server wants a pause."""
        self.pausing = self.reporter.asked == "pause"
        return self.pausing

    def after(self, step: int, seconds: Mapping[str, float], *, last: bool) -> None:
        """Tell of a step, and publish the model where it is time; the last one comes with the end.

        Everything stands in this attempt's folder before the checkpoint does: a step that is told
        again after a kill is told with the same figures.
        """
        done, order, now_s = step + 1, self.trainee.order, time.time()
        event = step_event(self.method, self.row, total=order.steps, seconds=seconds, now_s=now_s)
        self.reporter.tell(event)
        each_s = (now_s - self.began_s) / max(1, step - self.first)
        self.reporter.standing.finish_s = now_s + each_s * (order.steps - done)
        every = self.extras.snapshot_every
        if not every:
            every = self.hyperparameters.get("eval_interval", order.steps_per_epoch)
        if not last and (self.pausing or done % every == 0):
            self.publish(done)

    def publish(self, done: int) -> None:
        """Leave a model that can answer, and tell the server of it."""
        folder = self.start.publish(self.trainee.save, done)
        self.reporter.tell(checkpoint_of(self.reporter.spec.fence, folder, self.method, self.row))

    def saved(self, steps: int) -> None:
        """Hear that a checkpoint holds so many steps."""
        self.reporter.standing.saved = steps


def checkpoint_of(fence: int, folder: Path, method: Method, row: Mapping[str, Any]) -> Checkpoint:
    """Return the message of a model that can answer, with what was measured at its step."""
    return Checkpoint(
        fence=fence,
        step=int(row["step"]) + 1,
        folder=str(folder),
        manifest_hash=manifest_hash(folder),
        metrics=checkpoint_metrics(method, row),
    )


def _sampled(found: Mapping[str, float]) -> dict[str, float]:
    """Return what is told of a look between epochs."""
    names = ("loss", "mean_token_accuracy")
    return {f"valid_{name}": found[name] for name in names if name in found}
