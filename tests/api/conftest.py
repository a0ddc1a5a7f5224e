"""The whole server's application in this process, over a store that tests can look into.

    def test_something(api: Api) -> None:
        answer = api.client().get("/v1/files")           # a key for everything in one project
        api.client(scopes=("files:read",)) …             # a key for less
        api.stranger() …                                 # a key for everything in another project

Jobs are made and wait: no worker is started. `api.bases` knows one model, `tiny`, a folder with a
config alone; whoever needs one that trains or answers makes it.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from tests.store import conftest as store_fixtures

from preftune.serving.api.limits import LimitSettings
from preftune.serving.backend import BackendSettings, OwnBackend
from preftune.serving.base_models import BaseModels
from preftune.serving.serve import ServeSettings, create_server
from preftune.serving.settings import ServerSettings
from preftune.serving.supervisor import Supervisor
from preftune.store.api_keys import ALL, ApiKey, make_key
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, create_project

postgresql, database_url = store_fixtures.postgresql, store_fixtures.database_url

URL = "http://127.0.0.1:8000"
MODEL = "tiny"
names = itertools.count()


def key_for(
    database: Database,
    project_id: str,
    scopes: Sequence[str] = (ALL,),
    *,
    ago_s: float = 0.0,
    **how: Any,
) -> tuple[ApiKey, str]:
    """Make a key straight in the store, now or some time ago; returns it and its secret."""
    return database.write(
        partial(
            make_key,
            project_id=project_id,
            name=f"key {next(names)}",
            scopes=scopes,
            by="test",
            now_s=time.time() - ago_s,
            **how,
        )
    )


def new_project(database: Database, name: str) -> str:
    settings = ProjectSettings()
    return database.write(partial(create_project, name=name, settings=settings, by="test"))


@dataclass(kw_only=True)
class Api:
    """A server, a project with a key for everything, and another project."""

    database: Database
    bases: BaseModels
    options: ServeSettings = field(default_factory=ServeSettings)
    settings: ServerSettings = field(default_factory=ServerSettings)
    clients: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.project_id = new_project(self.database, "Care desk")
        self.other_id = new_project(self.database, "Elsewhere")
        self.key, self.secret = key_for(self.database, self.project_id)
        backend = OwnBackend(self.options.backend, log=self.database.files / "generation.log")
        self.supervisor = Supervisor(self.database, bases=self.bases, api=self.options.api)
        self.asgi: FastAPI = create_server(
            self.database,
            settings=self.settings,
            options=self.options,
            bases=self.bases,
            backend=backend,
            supervisor=self.supervisor,
        )
        self.clients.callback(backend.close)
        self._plain: TestClient | None = None

    def client(self, *, scopes: Sequence[str] | None = None) -> TestClient:
        """Return a client with the project's key, or with one for these scopes alone."""
        if scopes is None:
            return self.with_secret(self.secret)
        return self.with_secret(key_for(self.database, self.project_id, scopes)[1])

    def stranger(self, *, scopes: Sequence[str] = (ALL,)) -> TestClient:
        """Return a client with a key of the other project."""
        return self.with_secret(key_for(self.database, self.other_id, scopes)[1])

    def with_secret(self, secret: str | None, **headers: str) -> TestClient:
        """Return a client that sends this key; None: none."""
        sent = {"Authorization": f"Bearer {secret}", **headers} if secret else headers
        client = TestClient(self.asgi, base_url=URL, headers=sent, raise_server_exceptions=False)
        return self.clients.enter_context(client)

    def upload(
        self,
        content: bytes,
        *,
        name: str = "rows.jsonl",
        purpose: str = "fine-tune",
        client: TestClient | None = None,
        said: dict[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a file as the openai client does."""
        return (client or self.client()).post(
            "/v1/files",
            files={"file": (name, content, "application/octet-stream")},
            data={"purpose": purpose, **(said or {})},
        )

    def file_id(self, content: bytes, **how: Any) -> str:
        """Send a file, which must be taken, and return its id."""
        answer = self.upload(content, **how)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])


def refused(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Check that an answer is a refusal of OpenAI's shape, and return its `error`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> BaseModels:
    """One base model, of which nothing but the name is used."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text("{}")
    return BaseModels(folders={MODEL: folder})


@pytest.fixture
def api(tmp_path: Path, bases: BaseModels) -> Iterator[Api]:
    """The application over an empty SQLite store with two projects."""
    with Database(tmp_path / "store.db") as database:
        made = Api(database=database, bases=bases)
        with made.clients:
            yield made


@pytest.fixture
def small_api(tmp_path: Path, bases: BaseModels) -> Iterator[Api]:
    """The same with limits of one MiB, and lines of a KiB."""
    limits = LimitSettings(json_mib=1, file_mib=1, part_mib=1, line_kib=1)
    options = ServeSettings(limits=limits, backend=BackendSettings())
    with Database(tmp_path / "small.db") as database:
        made = Api(database=database, bases=bases, options=options)
        with made.clients:
            yield made
