"""A server with jobs in it, and a hand that does to them what workers do, through the store."""

import hashlib
import json
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from preftune.serving.backend import BackendSettings, Question
from preftune.serving.base_models import BaseModels
from preftune.serving.serve import ServeSettings, create_server
from preftune.serving.settings import ServerSettings
from preftune.serving.supervisor import Supervisor
from preftune.store import job_leases, jobs
from preftune.store.api_files import ApiFile, add_file
from preftune.store.blobs import incoming
from preftune.store.database import Database
from preftune.store.job_events import tell
from preftune.store.jobs import Job, NewJob
from preftune.wire.chat import Answer, Begun, Choice, Done, Health, Score
from preftune.wire.job import Checkpoint, Event, Finish, Problem, Started

LEASE_S = 3600.0
STEPS = 40


class Parrot:
    """A backend that says what it was asked: a model whose words are as hostile as its users'."""

    settings = BackendSettings()

    async def answers(self, question: Question) -> AsyncGenerator[Answer, None]:
        said = question.ask.messages[-1].content
        yield Begun(prompt_tokens=1, fingerprint="parrot")
        yield Choice(index=0, text=said, finish="stop", drawn=3)
        yield Done(
            prompt_tokens=1, completion_tokens=3, drawn_tokens=3, drawn=1, finished=1, seconds=0.25
        )

    async def scores(self, question: Score) -> tuple[float, ...]:
        return tuple(0.0 for _ in question.rows)

    async def health(self) -> Health | None:
        return None

    def close(self) -> None:
        """Nothing was started."""


def make_server(database: Database) -> FastAPI:
    """Return the server of a store, with one base model called `tiny` and nobody who trains."""
    folder = database.files / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    options, bases = ServeSettings(), BaseModels(folders={"tiny": folder})
    return create_server(
        database,
        settings=ServerSettings(),
        options=options,
        bases=bases,
        backend=Parrot(),
        supervisor=Supervisor(database, bases=bases, api=options.api),
    )


def add_rows(database: Database, project_id: str, name: str, text: str = "{}\n") -> ApiFile:
    """Put a training file into a project."""
    with incoming(database) as new:
        new.write(text.encode())
        content = new.finish()
        return database.write(
            lambda db: add_file(
                db,
                content,
                project_id=project_id,
                filename=name,
                purpose="fine-tune",
                now_s=time.time(),
            )
        )


def add_job(database: Database, project_id: str, file_id: str, **fields: Any) -> Job:
    """Ask for a DPO job."""
    numbers = {"n_epochs": 2, "batch_size": "auto", "beta": 0.1}
    method = {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    usual = {"model": "tiny", "suffix": "kind", "metadata": None, "seed": 7}
    new = NewJob(
        project_id=project_id,
        key_id=None,
        method="dpo",
        request={"method": method},
        resolved=numbers,
        training_file=file_id,
        **{**usual, **fields},
    )
    return database.write(lambda db: jobs.create(db, new, now_s=time.time()))


@dataclass(kw_only=True)
class Hand:
    """Holds a job as a worker does."""

    database: Database
    job: Job

    @classmethod
    def take(cls, database: Database) -> "Hand":
        """Claim the oldest job that waits, and begin to train."""
        job = database.write(lambda db: job_leases.claim(db, owner="test", lease_s=LEASE_S))
        assert job is not None
        numbers = {"n_epochs": 2, "batch_size": 8, "beta": 0.1}
        began = Started(fence=job.fence, hyperparameters=numbers, total_steps=STEPS)
        database.write(lambda db: job_leases.started(db, job.id, began, now_s=time.time()))
        return cls(database=database, job=job)

    def step(self, first: int, last: int | None = None, **more: float) -> None:
        """Tell the figures of some steps: the loss falls from ln 2."""
        steps = range(first, (last or first) + 1)
        events = [
            Event(
                key=f"step-{n}",
                type="metrics",
                message=f"Step {n}/{STEPS}",
                data={"step": n, "total_steps": STEPS, **figures(n), **more},
                created_s=time.time(),
            )
            for n in steps
        ]
        self.tell(*events)

    def tell(self, *events: Event) -> None:
        self.database.write(lambda db: tell(db, self.job.id, events, fence=self.job.fence))

    def checkpoint(self, step: int) -> str:
        """Leave a model that has files with a manifest."""
        folder, seal = self.model(step)
        message = Checkpoint(
            fence=self.job.fence, step=step, folder="-", manifest_hash=seal, metrics=figures(step)
        )
        return self.database.write(
            lambda db: job_leases.checkpoint(
                db, self.job.id, message, folder=folder, base_name="tiny", now_s=time.time()
            )
        )

    def model(self, step: int) -> tuple[str, str]:
        inside = f"jobs/{self.job.id}/attempt-{self.job.fence}/models/step-{step:06d}"
        folder = self.database.files / inside
        folder.mkdir(parents=True, exist_ok=True)
        weights = f"weights of step {step}".encode()
        (folder / "model.safetensors").write_bytes(weights)
        entry = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        manifest = json.dumps({"files": {"model.safetensors": entry}, "step": step}).encode()
        (folder / "MANIFEST.json").write_bytes(manifest)
        return inside, hashlib.sha256(manifest).hexdigest()

    def finish(self, step: int, outcome: Any = "succeeded", **more: Any) -> Job:
        """Say the last word."""
        folder, seal = self.model(step) if outcome == "succeeded" else ("", "")
        results = more.pop("result_files", ())
        if "problem" in more:
            more["error"] = Problem(**more.pop("problem"))
        message = Finish(
            fence=self.job.fence, outcome=outcome, step=step, manifest_hash=seal, **more
        )
        return self.database.write(
            lambda db: job_leases.finish(
                db,
                self.job.id,
                message,
                folder=folder,
                base_name="tiny",
                result_files=results,
                now_s=time.time(),
            )
        )


def figures(step: int) -> dict[str, float]:
    """What is measured at a step: step 1 has the loss ln 2, validation every tenth step."""
    loss = math.log(2) * 0.97 ** (step - 1)
    margin = 0.05 * (step - 1)
    found = {
        "train_loss": loss,
        "train_reward_margin": margin,
        "train_reward_accuracy": min(1.0, 0.5 + step / 80),
        "train_chosen_reward": -0.2 * margin,
        "train_rejected_reward": -1.2 * margin,
        "train_kl": 0.01 * step,
        "train_chosen_length_tokens": 20.0 + step % 3,
        "train_rejected_length_tokens": 18.0 + step % 2,
    }
    if step % 10 == 0:
        found |= {"full_valid_loss": loss + 0.02, "full_valid_reward_accuracy": 0.75}
        found["full_valid_rejected_length_tokens"] = 18.0
    return found
