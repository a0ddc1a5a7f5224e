"""A run folder: what went in, what came out, and exact resume from anything in between.

settings.yaml     resolved settings; give it back with --config
run.json          method, environment, hashes of data, model and template
metrics.jsonl     one row per step; the same seed gives the same bytes
timing.jsonl      seconds, the one file that differs between equal runs
warnings.jsonl    what looked unhealthy, and what to try
checkpoints/      verified checkpoints; the newest two are kept
final/            the model, published whole, with a manifest of hashes
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from preftune.cache import cache_folder, forget_oldest
from preftune.engine import determinism
from preftune.engine.checkpoint import (
    newest_checkpoint,
    save_checkpoint,
    verify,
    write_manifest,
)
from preftune.engine.core import Core
from preftune.engine.installation import Key, installation_key
from preftune.engine.layout import HasSequences
from preftune.engine.learner import Learner
from preftune.engine.memory import keep_pages, usable_bytes
from preftune.engine.reference import (
    Reference,
    cache_key,
    cached,
    digest_of,
    reference_logprobs,
)
from preftune.engine.settings import MOST_TOKENS, EngineSettings
from preftune.errors import HealthError, PreftuneError
from preftune.files import (
    append_jsonl,
    atomic_folder,
    disk_trouble_named,
    drop_torn_line,
    fsync_file,
    read_json,
    write_atomic,
    write_json,
)
from preftune.models.chat import Chat
from preftune.progress import progress
from preftune.settings import build, flat, read_yaml, write_yaml
from preftune.training.facts import Leans
from preftune.training.health import Health, not_finite, probe_warnings
from preftune.training.held_out import FILE, held_out_report
from preftune.training.logs import LOGS, cut, read_rows
from preftune.training.observer import Observer
from preftune.training.plots import plot_run
from preftune.training.probe import Probe
from preftune.training.rows import Row, TokenRows, fit_length, left_out, model_limit
from preftune.training.run_lock import locked
from preftune.training.same_run import decisive, hash_of, refuse_other
from preftune.training.settings import LengthSettings, RunSettings
from preftune.training.signals import Stopped, stop_signals
from preftune.training.workload import RowSizes, S, settled

REFERENCE_CACHE_BYTES = 5 << 30
UNCOUNTABLE = (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError)


@dataclass(kw_only=True, slots=True)
class Run:
    """One training run in its folder, locked against a second process."""

    folder: Path
    settings: RunSettings
    inputs: Mapping[str, str]
    observer: Observer | None = None
    key: Key = field(default_factory=installation_key)
    health: Health = field(default_factory=Health)
    stop_reason: str = ""
    spent: dict[str, float] = field(default_factory=dict)  # seconds of the parts of this step

    @classmethod
    @contextmanager
    def open(
        cls,
        settings: Any,
        *,
        method: str,
        inputs: Mapping[str, str],
        observer: Observer | None = None,
    ) -> Iterator["Run"]:
        """Yield the run of `settings.run.out`, new or to go on, and let go of it at the end.

        Args:
            settings: the settings of the method; written out resolved, compared on resume.
            method: sft, reward or direct.
            inputs: hashes of all that goes in (data, model, template); compared on resume.
            observer: looks on.

        Raises:
            SettingsError: the folder holds a run with other settings or inputs.
            CheckpointError: another process is at work in the folder, or its disk is full.
        """
        folder: Path = settings.run.out
        with locked(folder):
            keep_pages()
            determinism.fix(settings.run.threads)
            run = cls(folder=folder, settings=settings.run, inputs=inputs, observer=observer)
            with disk_trouble_named(folder):
                run._enter(settings, method=method)
                yield run

    @property
    def finished(self) -> bool:
        """Whether the model is published and every byte of it is right."""
        return verify(self.final) is None

    @property
    def final(self) -> Path:
        """Where the trained model is published."""
        return self.folder / "final"

    def ended(self) -> bool:
        """Whether the run was asked to end early."""
        return bool(self.stop_reason)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of every step so far."""
        return read_rows(self.folder / "metrics.jsonl")

    def steps(self, learner: Learner) -> Iterator[tuple[int, list[int]]]:
        """Yield (step, row numbers) from where the run stands to its end, saving on the way.

        The body of the caller's loop must call `update` once per step. A first SIGINT or SIGTERM
        ends the step at hand, saves and raises `Stopped`; a second one ends the process at once.
        """
        done = self._restore(learner)
        if self.ended():
            return
        steps = learner.order.steps
        with progress(self.folder.name, steps, done=done) as advance, stop_signals() as asked:
            for step, rows in enumerate(learner.order.batches(start=done), start=done):
                determinism.seed_step(self.settings.seed, step)
                began = time.perf_counter()
                yield step, rows
                seconds = {"seconds": time.perf_counter() - began, **self.spent}
                row = {name: round(spent, 4) for name, spent in seconds.items()}
                append_jsonl(self.folder / "timing.jsonl", {"step": step, **row})
                self.spent.clear()
                advance(note=self.health.note)
                last = step + 1 == steps or self.ended()
                stopping = asked() or (self.observer is not None and self.observer.stops())
                if self.observer:
                    self.observer.after(step, row, last=last)
                if last or stopping or (step + 1) % self.settings.save_every == 0:
                    self._save(step + 1, learner)
                if stopping and not last:
                    raise Stopped(
                        f"{self.folder}: stopped and saved after step {step + 1} of {steps}. "
                        "Run the same command to go on."
                    )
                if last:
                    return

    def update(self, learner: Learner, *, step: int, metrics: Mapping[str, float]) -> None:
        """Make one optimiser step with the gradients at hand, log the metrics, watch the health.

        Raises:
            HealthError: the loss or the gradient is not a number; nothing was learnt from it.
        """
        learnt = self.learn(learner, step=step, loss=metrics["loss"])
        self.record(step, {**metrics, **learnt})

    def learn(self, learner: Learner, *, step: int, loss: float) -> dict[str, float]:
        """Make one optimiser step with the gradients at hand; return its rate and norms.

        Raises:
            HealthError: the loss or the gradient is not a number; nothing was learnt from it.
        """
        learnt = {"loss": loss} if not_finite({"loss": loss}, step) else learner.update(step)
        if problem := not_finite(learnt, step):
            raise HealthError(f"{self.folder}: {problem}. Lower --lr.")
        return learnt

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step and watch the health; once per step."""
        row = {"step": step, **metrics}
        if self.observer:
            with self.timed("validation"):
                row |= self.observer.figures(step, metrics)
        append_jsonl(self.folder / "metrics.jsonl", row)
        for warning in self.health.watch(row):
            self.warn(warning, step=step)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the time inside the block as a part of the step's, under its own name."""
        began = time.perf_counter()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - began

    def end_early(self, reason: str, *, step: int) -> None:
        """Let this step be the last."""
        self.stop_reason = reason
        self.warn(f"ended early: {reason}", step=step)

    def log_probe(self, row: Mapping[str, Any]) -> None:
        """Log what fresh samples showed."""
        append_jsonl(self.folder / "probes.jsonl", row)

    def rows_that_fit(
        self,
        rows: TokenRows[Row],
        settings: LengthSettings,
        chat: Chat,
        *,
        name: str = "train",
    ) -> TokenRows[Row]:
        """Return the rows that fit, for training those that weigh something; tell of the others."""
        dropped, limit = self.folder / f"dropped_{name}.jsonl", model_limit(chat)
        fitting = fit_length(rows, settings=settings, model_limit=limit, dropped=dropped)
        usable = fitting if name == "held_out" else fitting.weighing()
        for note in rows.notes:
            self.warn(note)
        for note in left_out(rows, fitting, usable, dropped=dropped):
            self.warn(note)
        return usable

    def settled(self, settings: S, rows: Sequence[HasSequences]) -> S:
        """Return the settings with a number in place of `micro_tokens: auto`.

        It is chosen when the run begins, by the memory that is free then, and stands in `run.json`
        for the time when it goes on.
        """
        record = read_json(self.folder / "run.json")
        if settings.engine.micro_tokens != "auto" or not len(rows):
            return settings
        if "micro_tokens" in record:
            engine = replace(settings.engine, micro_tokens=record["micro_tokens"])
            return replace(settings, engine=engine)
        try:
            chosen = settled(settings, RowSizes.of(rows), usable_bytes(torch.device("cpu")))
        except PreftuneError:
            raise
        except UNCOUNTABLE as error:
            chosen = replace(settings, engine=replace(settings.engine, micro_tokens=MOST_TOKENS))
            what = " ".join(str(error).split())[:120]
            self.warn(f"micro_tokens: {MOST_TOKENS}; this model's memory cannot be counted: {what}")
        record["micro_tokens"] = chosen.engine.micro_tokens
        write_json(self.folder / "run.json", record)
        return chosen

    def core(self, model: Any, settings: EngineSettings) -> Core:
        """Return the core that computes log-probs; if prompts are not shared, it says why."""
        return Core.of(model, settings, tell=self.warn)

    def reference(
        self,
        core: Core,
        rows: Sequence[HasSequences],
        batches: Iterable[Sequence[int]],
        *,
        how: str,
        name: str = "train",
    ) -> Reference:
        """Return the log-probs of all responses under the model as it starts.

        They are kept for every later run with the same weights, token ids and batches.

        Args:
            core: the model as it starts.
            rows: all rows.
            batches: row numbers to forward together.
            how: whatever else the last bit depends on: order, batch size, precision.
            name: of the folder in the run's own, when there is no cache.
        """
        tokens = rows.digest() if isinstance(rows, TokenRows) else digest_of(rows)
        dtype = str(next(core.model.parameters()).dtype)
        environment = "/".join(map(str, determinism.environment().values()))
        key = cache_key(tokens, *self.inputs.values(), dtype, environment, how)
        folder = cache_folder("reference")
        place = folder / key if folder else self.folder / f"reference_{name}"
        reference = cached(place, key, lambda: reference_logprobs(core, rows, batches))
        if folder:
            forget_oldest(folder, limit_bytes=REFERENCE_CACHE_BYTES)
        return reference

    def probe(self, probe: Probe, policy: nn.Module, *, step: int) -> None:
        """Sample fresh replies when it is time: log KL and length, warn, or ask for the end."""
        if not probe.due(step):
            return
        row = {"step": step, **probe.measure(policy, step=step)}
        self.log_probe(row)
        for warning in probe_warnings(row, kl_alarm=probe.settings.kl_alarm):
            self.warn(warning, step=step)
        if probe.settings.kl_stop and row["kl"] > probe.settings.kl_stop:
            reason = f"sampled KL {row['kl']:.2f} above kl_stop {probe.settings.kl_stop}"
            self.end_early(reason, step=step)

    def report_held_out(
        self,
        *,
        trained_on: Leans,
        leans: Leans,
        margins: Sequence[float],
    ) -> None:
        """Write `held_out.json`: pair accuracy with interval, beside the length-only one."""
        report = held_out_report(trained_on=trained_on, leans=leans, margins=margins)
        write_json(self.folder / FILE, report)

    def warn(self, message: str, *, step: int | None = None) -> None:
        """Keep a warning with the run, once, and show it."""
        row, log = {"step": step, "warning": message}, self.folder / "warnings.jsonl"
        if row not in read_rows(log):
            append_jsonl(log, row)
        self.health.shown.append(message)

    def publish(self, save: Callable[[Path], object]) -> Path:
        """Draw the curves, then write the model with `save` into `final/`, whole or not at all.

        `final/` is the last thing a run writes: where it is whole, everything else is there.
        """
        plot_run(self.metrics(), self.folder / "plots")
        with atomic_folder(self.final) as writing:
            save(writing)
            write_manifest(writing, origin=self._origin())
        return self.final

    def _enter(self, settings: Any, *, method: str) -> None:
        for left_over in self.folder.rglob(".*.tmp"):
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        for name in LOGS:
            drop_torn_line(self.folder / name)
        description = {"method": method, "inputs": dict(self.inputs)}
        now = determinism.environment()
        record = self.folder / "run.json"
        if not record.exists():
            write_atomic(self.folder / "settings.yaml", write_yaml(settings))
            write_json(record, {**description, "environment": now})
            return
        before = read_json(record)
        refuse_other(
            f"{self.folder}",
            before["inputs"] | {"method": before["method"]},
            {**self.inputs, "method": method},
        )
        old = flat(build(type(settings), read_yaml(self.folder / "settings.yaml")))
        refuse_other(f"{self.folder}", decisive(old), decisive(flat(settings)))
        changed = [name for name, value in now.items() if before["environment"].get(name) != value]
        if changed:
            self.warn(f"resumed with other {', '.join(changed)}: not bit-exact from here on")

    def _origin(self) -> dict[str, str]:
        """Return hashes of all that decides the result; they stand in every manifest."""
        kept = read_yaml(self.folder / "settings.yaml")
        return {**self.inputs, "settings": hash_of(decisive(kept))}

    def _restore(self, learner: Learner) -> int:
        checkpoint, notes = newest_checkpoint(
            self.folder / "checkpoints",
            origin=self._origin(),
            key=self.key,
            trust_foreign=self.settings.trust_foreign,
        )
        for note in notes:
            self.warn(note)
        done = 0
        if checkpoint is not None:
            learner.restore(checkpoint)
            done = checkpoint.step
            self.stop_reason = checkpoint.state.get("stop_reason", "")
        for name in LOGS:
            cut(self.folder / name, done)
        if len(self.metrics()) != done:
            self.warn(f"metrics.jsonl holds {len(self.metrics())} of the {done} steps done")
        self.health.replay(self.metrics())
        return done

    def _save(self, step: int, learner: Learner) -> None:
        for name in LOGS:
            if (self.folder / name).exists():
                fsync_file(self.folder / name)
        save_checkpoint(
            self.folder / "checkpoints",
            step=step,
            tensors=learner.tensors(),
            state={"stop_reason": self.stop_reason},
            origin=self._origin(),
            key=self.key,
        )
        if self.observer:
            self.observer.saved(step)
