"""A worker that trains nothing, but keeps every rule of `wire/job.py`.

It walks through steps whose losses follow from the seed and all steps before, so that a lost,
doubled or foreign step shows. The hyperparameters of the job steer it:

    n_epochs                  ten steps each, and a model that answers at the end of each
    batch_size                milliseconds per step
    learning_rate_multiplier  13: dies in step 1; 14: falls silent at step 5; 15: its disk is full
"""

import hashlib
import http.client
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from preftune.files import append_jsonl, atomic_folder, write_json
from preftune.jobs.order import next_order
from preftune.wire.job import LOST, JobSpec, Order

DIES, FALLS_SILENT, DISK_FULL = 13, 14, 15
STEPS_PER_EPOCH, SAVE_EVERY, BEAT_S = 10, 3, 0.1
MANIFEST = "MANIFEST.json"


class Server:
    """Posts messages; a server that is away is asked again, for a while."""

    def __init__(self, spec: JobSpec, secret: str) -> None:
        self.spec, self.patience_s = spec, 20.0
        self.secret = secret
        self.asked = ""

    def post(self, what: str, **message: Any) -> Any:
        """Return the answer; 410 ends this process at once."""
        body = json.dumps({"fence": self.spec.fence, **message})
        until = time.monotonic() + self.patience_s
        while True:
            try:
                status, answer = self._once(what, body)
            except OSError:
                status, answer = 0, None
            if status == LOST:
                os._exit(0)
            if status == 200:
                return answer
            if 400 <= status < 500 or time.monotonic() > until:
                sys.stderr.write(f"{what}: {status} {answer!r}\n")
                sys.exit(1)
            time.sleep(0.05)

    def _once(self, what: str, body: str) -> tuple[int, Any]:
        address = urlsplit(self.spec.server)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        path = f"/internal/jobs/{self.spec.job_id}/{what}"
        connection.request("POST", path, body, {"Authorization": f"Bearer {self.secret}"})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        return reply.status, json.loads(text) if reply.status == 200 else text


class Training:
    """Steps, checkpoints and models of one attempt."""

    def __init__(self, spec: JobSpec, server: Server) -> None:
        self.spec, self.server = spec, server
        self.folder, self.run = Path(spec.folder), Path(spec.folder) / "run"
        self.step, self.state, self.saved = (
            0,
            hashlib.sha256(str(spec.seed).encode()).hexdigest(),
            0,
        )
        self.total = STEPS_PER_EPOCH * int(spec.hyperparameters["n_epochs"])

    def go_on(self) -> None:
        """Take over what the attempt before left."""
        if self.spec.earlier and not self.run.exists():
            with atomic_folder(self.run) as copy:
                shutil.copytree(Path(self.spec.earlier) / "run", copy, dirs_exist_ok=True)
        self.run.mkdir(exist_ok=True)
        kept = self.run / "checkpoint.json"
        if kept.exists():
            found = json.loads(kept.read_text())
            self.step, self.state, self.saved = found["step"], found["state"], found["step"]
        rows = [row for row in self.rows() if row["step"] <= self.step]
        (self.run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            self.tell(row)

    def rows(self) -> list[dict[str, Any]]:
        """Return the losses so far; a torn last line is none."""
        path = self.run / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def tell(self, row: dict[str, Any]) -> None:
        """Tell of one step."""
        text = f"Step {row['step']}/{self.total}: training loss={row['train_loss']:.2f}"
        event = {"key": f"step-{row['step']}", "message": text, "type": "metrics", "data": row}
        self.server.post("events", events=[{**event, "created_s": time.time()}])

    def one_step(self) -> None:
        """Do the next step."""
        self.step += 1
        self.state = hashlib.sha256(f"{self.state}{self.step}".encode()).hexdigest()
        loss = int(self.state[:8], 16) / 2**32
        row = {"step": self.step, "total_steps": self.total, "train_loss": loss}
        append_jsonl(self.run / "metrics.jsonl", row)
        self.tell(row)

    def save(self) -> None:
        """Leave a checkpoint to go on from."""
        write_json(self.run / "checkpoint.json", {"step": self.step, "state": self.state})
        self.saved = self.step

    def model(self) -> tuple[str, str]:
        """Leave a model of this step; return its folder and the hash of its manifest."""
        name = f"models/step-{self.step:06d}"
        with atomic_folder(self.folder / name) as folder:
            (folder / "weights.txt").write_text(self.state)
            (folder / MANIFEST).write_text(json.dumps({"weights.txt": self.state}))
        return name, hashlib.sha256((self.folder / name / MANIFEST).read_bytes()).hexdigest()

    def publish(self) -> None:
        """Leave a model that can answer, then the checkpoint: killed in between, it comes again."""
        folder, manifest_hash = self.model()
        metrics = {"step": self.step, "train_loss": self.rows()[-1]["train_loss"]}
        told = {"step": self.step, "folder": folder, "manifest_hash": manifest_hash}
        self.server.post("checkpoint", **told, metrics=metrics)
        self.save()

    def result(self) -> str:
        """Write the result file and return its name."""
        lines = ["step,train_loss", *(f"{row['step']},{row['train_loss']}" for row in self.rows())]
        (self.folder / "result.csv").write_text("\n".join(lines) + "\n")
        return "result.csv"


def main(order: Order) -> None:
    """Work on one job."""
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    spec = msgspec.json.decode(Path(order.spec).read_bytes(), type=JobSpec)
    server = Server(spec, order.secret)
    kind = spec.hyperparameters["learning_rate_multiplier"]
    training = Training(spec, server)
    training.go_on()
    server.post("beat", step=training.saved)
    numbers = {
        name: 1 if value == "auto" else value for name, value in spec.hyperparameters.items()
    }
    server.post("started", hyperparameters=numbers, total_steps=training.total)
    beaten = time.monotonic()
    while training.step < training.total:
        if kind == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == FALLS_SILENT and training.step == 5 and not spec.earlier:
            leave.wait()
        training.one_step()
        time.sleep(spec.hyperparameters["batch_size"] / 1000)
        if training.step % STEPS_PER_EPOCH == 0:
            training.publish()
        elif training.step % SAVE_EVERY == 0:
            training.save()
        if kind == DISK_FULL and training.step == 7 and not spec.earlier:
            server.post("finish", outcome="paused", step=training.saved, why="disk full")
            return
        if leave.is_set():
            server.patience_s = 2.0
            training.save()
            server.post("finish", outcome="stopped", step=training.saved)
            return
        if time.monotonic() - beaten > BEAT_S:
            beaten = time.monotonic()
            asked = server.post("beat", step=training.saved, total_steps=training.total)["asked"]
            if asked == "pause":
                training.publish()
                server.post("finish", outcome="paused", step=training.saved)
                return
    folder, manifest_hash = training.model()
    server.post(
        "finish",
        outcome="succeeded",
        step=training.step,
        folder=folder,
        manifest_hash=manifest_hash,
        metrics={"step": training.step, "train_loss": training.rows()[-1]["train_loss"]},
        result_csv=training.result(),
        trained_tokens=100 * training.step,
    )


if __name__ == "__main__":
    if todo := next_order():
        main(todo)
