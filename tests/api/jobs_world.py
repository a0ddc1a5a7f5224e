"""Servers with jobs for the tests: in this process, or as a real one that can be killed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection
from starlette.testclient import TestClient
from tests.api.conftest import URL, Api
from tests.serving.conftest import free_port

from preftune.files import sha256_of
from preftune.serving.base_models import read_base_models
from preftune.serving.job_folders import attempt_folder, read_worker
from preftune.serving.serve import ServeSettings, first_key
from preftune.settings import build
from preftune.store import job_leases
from preftune.store.api_files import add_file
from preftune.store.blobs import incoming
from preftune.store.database import Database
from preftune.store.projects import project_named

ROOT = Path(__file__).parents[2]
JOBS = "/v1/fine_tuning/jobs"
CHAT_ROW: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
}
RFT_ROW: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "answer": "Yo"}
PAIR_ROW: dict[str, Any] = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Yo"}],
    "non_preferred_output": [{"role": "assistant", "content": "No"}],
}
ENDED = ("succeeded", "failed", "cancelled")


def jsonl(row: dict[str, Any], count: int = 10) -> bytes:
    """Return so many rows."""
    return b"".join(
        json.dumps(row).encode().replace(b"Hi", b"Hi %d" % n) + b"\n" for n in range(count)
    )


def base_model(folder: Path) -> Path:
    """Make a folder that looks like a model to the server, which never opens its weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def put_file(
    database: Database, project_id: str, content: bytes, *, purpose: str = "fine-tune"
) -> str:
    """Add a file straight to the store and return its id."""
    with incoming(database) as new:
        new.write(content)
        whole = new.finish()

        def add(db: Connection) -> str:
            about = {"project_id": project_id, "filename": "rows.jsonl", "purpose": purpose}
            return add_file(db, whole, now_s=time.time(), expires_s=None, **about).id

        return database.write(add)


@dataclass(kw_only=True)
class World:
    """A server in this process whose supervisor rests: jobs wait, and the test is the worker."""

    api: Api

    def __post_init__(self) -> None:
        self.client = self.api.client()
        near = TestClient(self.api.asgi, base_url=URL, client=("127.0.0.1", 50000))
        self.near = self.api.clients.enter_context(near)
        self.chats, self.pairs = self.put(jsonl(CHAT_ROW)), self.put(jsonl(PAIR_ROW))
        self.prompts = self.put(jsonl(RFT_ROW))

    def put(self, content: bytes, *, purpose: str = "fine-tune") -> str:
        """Add a file straight to the store and return its id."""
        return put_file(self.api.database, self.api.project_id, content, purpose=purpose)

    def create(self, **body: Any) -> dict[str, Any]:
        """Make a supervised job, unless told otherwise."""
        made = self.client.post(JOBS, json={"model": "tiny", "training_file": self.chats, **body})
        assert made.status_code == 200, made.text
        found: dict[str, Any] = made.json()
        return found

    def refused(self, **body: Any) -> tuple[int, dict[str, Any]]:
        """Return status and error of a job that is refused; `...` leaves a field out."""
        whole = {"model": "tiny", "training_file": self.chats, **body}
        answer = self.client.post(JOBS, json={k: v for k, v in whole.items() if v is not ...})
        return answer.status_code, answer.json()["error"]

    def claim(self, job_id: str) -> int:
        """Take the oldest job that waits, which must be this one, and return the fence."""
        write = self.api.database.write
        taken = write(lambda db: job_leases.claim(db, owner="test", lease_s=60))
        assert taken is not None
        assert taken.id == job_id
        return taken.fence

    def worker(self, job_id: str, what: str, **message: Any) -> httpx2.Response:
        """Say something as the worker of a job."""
        secret = self.api.supervisor.token(job_id)
        return self.near.post(
            f"/internal/jobs/{job_id}/{what}",
            json=message,
            headers={"Authorization": f"Bearer {secret}"},
        )

    def leave_model(self, job_id: str, fence: int, name: str) -> dict[str, str]:
        """Leave a model in the folder of an attempt; return where it is and its manifest's hash."""
        attempt = attempt_folder(self.api.database.files, job_id, fence)
        folder = attempt / name
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text(f'{{"{name}": 1}}')
        return {"folder": name, "manifest_hash": sha256_of(folder / "MANIFEST.json")}

    def cancel_all(self) -> None:
        """Let no job wait."""
        for job in self.client.get(JOBS, params={"limit": 100}).json()["data"]:
            if job["status"] not in ENDED:
                self.client.post(f"{JOBS}/{job['id']}/cancel")


@contextmanager
def open_world(folder: Path, **flags: Any) -> Iterator[World]:
    """Yield a server over a new store."""
    bases = read_base_models([f"tiny={base_model(folder / 'tiny')}"])
    with Database(folder / "preftune.db") as database:
        api = Api(database=database, bases=bases, options=build(ServeSettings, flags))
        with api.clients:
            yield World(api=api)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One server for the module."""
    with open_world(tmp_path_factory.mktemp("world")) as opened:
        yield opened


@dataclass(kw_only=True)
class Server:
    """A real server process over a store of its own, its jobs done by `honest_worker`."""

    folder: Path
    port: int
    flags: dict[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    key: str = ""
    chats: str = ""

    def __post_init__(self) -> None:
        base_model(self.folder / "tiny")
        with Database(self.folder / "preftune.db") as database:
            self.key = first_key(database) or ""
            with database.read() as db:
                project_id = project_named(db, "default")
            assert project_id is not None
            self.chats = put_file(database, project_id, jsonl(CHAT_ROW))
        self.http = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {self.key}"},
            trust_env=False,
            timeout=30,
        )

    def start(self) -> float:
        """Start, and return how long it took to answer, in seconds."""
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "tests.api.serve_honestly",
            str(self.folder),
            str(self.port),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps(self.flags)], stdout=log, stderr=log, cwd=ROOT
            )
        while True:
            try:
                self.http.get("/v1/models").raise_for_status()
            except httpx2.HTTPError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < began + 60
                time.sleep(0.02)
            else:
                return time.monotonic() - began

    def end(self, sign: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(sign)
        return self.process.wait(timeout=30)

    def create(self, **numbers: Any) -> str:
        """Make a job with these hyperparameters and seed 7, and return its id."""
        body = {
            "model": "tiny",
            "training_file": self.chats,
            "seed": 7,
            "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}},
        }
        made = self.http.post(JOBS, json=body)
        assert made.status_code == 200, made.text
        return str(made.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        found: dict[str, Any] = self.http.get(f"{JOBS}/{job_id}").json()
        return found

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's whole history, the oldest line first, page by page."""
        found: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            page = self.http.get(f"{JOBS}/{job_id}/events", params={"limit": 50, **after}).json()
            found += page["data"]
            if not page["has_more"]:
                return found[::-1]
            after = {"after": found[-1]["id"]}

    def steps(self, job_id: str) -> list[tuple[int, float]]:
        """Return step and loss of each line of metrics."""
        told = [event["data"] for event in self.events(job_id) if event["type"] == "metrics"]
        return [(row["step"], row["train_loss"]) for row in told]

    def wait(self, until: Callable[[], object], *, most_s: float = 90.0) -> float:
        """Wait for something to hold, and return how long that took."""
        began = time.monotonic()
        while not until():
            assert time.monotonic() < began + most_s, (self.folder / "server.log").read_text()
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_for_end(self, job_id: str) -> dict[str, Any]:
        """Return a job that has ended."""
        self.wait(lambda: self.job(job_id)["status"] in ENDED)
        return self.job(job_id)

    def worker_pid(self, job_id: str) -> int:
        """Return the process that works on a job; 0 where none does."""
        folders = (self.folder / "preftune.db.files" / "jobs" / job_id).glob("attempt-*")
        fences = [int(folder.name.removeprefix("attempt-")) for folder in folders]
        files = self.folder / "preftune.db.files"
        record = read_worker(attempt_folder(files, job_id, max(fences))) if fences else None
        return record.pid if record is not None and record.runs else 0


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of their own; they end with the module."""
    made: list[Server] = []

    def start(**flags: Any) -> Server:
        made.append(Server(folder=tmp_path_factory.mktemp("server"), port=free_port(), flags=flags))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.end(signal.SIGTERM)
