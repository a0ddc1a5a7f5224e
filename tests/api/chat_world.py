"""A real server that answers chats with tiny models; one for all tests of a run.

    python -m tests.api.chat_world FOLDER PORT

serves the store and models of a folder that `make_folder` has made. `running()` does both, once;
the server ends with the tests.
"""

import atexit
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
from openai import OpenAI
from sqlalchemy import Connection
from tests.serving.conftest import free_port

from preftune.engine.checkpoint import MANIFEST, write_manifest
from preftune.models.adapters import add_lora, save_adapter
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.serving.backend import BackendSettings
from preftune.serving.base_models import read_base_models
from preftune.serving.serve import ServeSettings, first_key, serve_all
from preftune.serving.settings import ServerSettings
from preftune.store import jobs, tuned_models
from preftune.store.database import Database
from preftune.store.jobs import NewJob
from preftune.store.projects import project_named
from preftune.store.tuned_models import TunedModel

ROOT = Path(__file__).parents[2]
TUNED = "ft:tiny:preftune:warm:AbCdEfGh"
TEXTS = ["can i wash my bear ?", "yes , thank you , wash it warm .", "crème brûlée → 洗濯 🧺"]
START_S = 60.0
NUMBERS = {"n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": 1.0, "beta": 0.1}
CANARY = "canary-7f3a"  # a secret of the server's environment


def make_folder(folder: Path) -> str:
    """Make a store with a key, which is returned, and the models `tiny`, `reward` and `TUNED`."""
    tiny = new_model(
        folder / "tiny", preset="tiny", texts=TEXTS, vocab_size=300, seed=0, tokenizer="bpe"
    )
    save_reward_model(new_reward_model(tiny, seed=5), load_chat(tiny), folder / "reward")
    with Database(folder / "preftune.db") as database:
        key = first_key(database)
        assert key is not None
        _publish(database, tiny)
    return key


def _publish(database: Database, base: Path) -> None:
    """Put an adapter into the store as a job would, under the name `TUNED`."""
    where = database.files / "jobs" / "made" / "model"
    model = add_lora(load_policy(base), LoraSettings(lora_rank=2), seed=3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)  # fresh adapters change nothing
    save_adapter(model, where)
    load_chat(base).save(where)
    write_manifest(where)

    def work(db: Connection) -> None:
        project_id = project_named(db, "default")
        assert project_id is not None
        job = jobs.create(
            db,
            NewJob(
                project_id=project_id,
                key_id=None,
                model="tiny",
                method="dpo",
                request={"method": {"type": "dpo", "dpo": {"hyperparameters": NUMBERS}}},
                resolved=NUMBERS,
                training_file="file-none",
                seed=1,
            ),
            now_s=time.time(),
        )
        jobs.ask(db, project_id, job.id, "cancel", now_s=time.time())
        tuned_models.publish(
            db,
            TunedModel(
                name=TUNED,
                checkpoint_id="ftckpt_made",
                project_id=project_id,
                job_id=job.id,
                base="tiny",
                step=1,
                final=True,
                folder=str(where.relative_to(database.files)),
                manifest_hash=hashlib.sha256((where / MANIFEST).read_bytes()).hexdigest(),
                metrics={},
                created_s=time.time(),
            ),
        )

    database.write(work)


@dataclass(kw_only=True)
class Live:
    """A server process, and clients that know its key."""

    folder: Path
    port: int
    key: str
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @functools.cached_property
    def client(self) -> OpenAI:
        """The openai client, as a user has it, but strict: answers must be of its own types."""
        return OpenAI(
            base_url=self.url, api_key=self.key, max_retries=0, _strict_response_validation=True
        )

    @functools.cached_property
    def loose(self) -> OpenAI:
        """The same as a user has it."""
        return OpenAI(base_url=self.url, api_key=self.key, max_retries=0)

    @functools.cached_property
    def http(self) -> httpx2.Client:
        """A plain client."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)

    @property
    def said(self) -> str:
        """The end of what the server and its generation process have logged."""
        logs = [self.folder / "server.log", *self.folder.glob("preftune.db.files/*.log")]
        return "\n".join(log.read_text()[-4000:] for log in logs)

    @property
    def generation(self) -> int:
        """The id of the generation process; 0 while there is none."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if b"preftune.hosting" in command and int(parent) == self.process.pid:
                return int(folder.name)
        return 0

    def stop(self) -> int:
        """End it as an operator does and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def started(folder: Path, key: str) -> Iterator[Live]:
    """Serve a folder until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "tests.api.chat_world", str(folder), str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SOME_API_KEY": CANARY}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
    live = Live(folder=folder, port=port, key=key, process=process)
    try:
        ends = time.monotonic() + START_S
        while not _answers(live):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.02)
        yield live
    finally:
        if process.poll() is None:
            live.stop()


def _answers(live: Live) -> bool:
    try:
        return live.http.get("/models").status_code == 200
    except httpx2.TransportError:
        return False


@functools.cache
def running() -> Live:
    """Return the server that all tests share."""
    folder = Path(tempfile.mkdtemp(prefix="preftune-chat-"))
    atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
    opened = started(folder, make_folder(folder))
    live = opened.__enter__()
    atexit.register(opened.__exit__, None, None, None)
    return live


def main(folder: Path, port: int) -> None:
    """Serve until a signal comes."""
    bases = read_base_models([f"{name}={folder / name}" for name in ("tiny", "reward")])
    options = ServeSettings(backend=BackendSettings(generation_threads=1))
    settings = ServerSettings(port=port, access_log=folder / "access.log")
    with Database(folder / "preftune.db") as database:
        serve_all(database, settings, options=options, bases=bases, ready=lambda _: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
