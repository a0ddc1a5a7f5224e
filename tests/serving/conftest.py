"""A labelling server with people in it: in this process, as a real process, and in a browser.

    def test_something(site: Site, browser_page: Callable[[str], Page]) -> None:
        page = browser_page("rater")                    # signed in; desktop, light
        page.goto(f"/p/{site.project_id}/label")

`site` is one server per test module. A module that wants something in the store first overrides
the fixture `fill_store`, or names the projects it works in in `projects_wanted`.
"""

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import Connection, create_engine
from starlette.testclient import TestClient
from tests.serving.browser_world import (
    CHROMIUM,
    COOKIE,
    DESKTOP,
    FLAGS,
    PATIENCE_MS,
    Site,
    fetch_axe,
    open_page,
    served,
)
from tests.serving.rater_world import Place, go, make_place
from tests.store import conftest as store_fixtures

from preftune.serving.app import create_app
from preftune.serving.passwords import hash_password
from preftune.serving.security import cookie_name, csrf_token
from preftune.serving.settings import ServerSettings
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, Role

postgresql, database_url = store_fixtures.postgresql, store_fixtures.database_url

WORDS = "four unrelated words here"  # everybody's password
ROLES = ("admin", "lead", "rater", "rater2", "outsider")
START_S = 60.0
LABEL = [sys.executable, "-m", "preftune.cli.main", "label"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """Who is in a store: an admin; lead, rater, rater2 of one project; outsider of another."""

    ids: dict[str, str]  # role → user id
    project_id: str
    other_id: str  # of the outsider's project

    def email(self, role: str) -> str:
        return f"{role}@example.org"


def make_cast(database: Database, settings: ProjectSettings | None = None) -> Cast:
    """Put the people and two projects into an empty store."""
    hashed = hash_password(WORDS)
    asked = settings or ProjectSettings()

    def fill(db: Connection) -> Cast:
        ids = {
            role: people.add_person(
                db,
                email=f"{role}@example.org",
                name=f"{role.capitalize()} Example",
                password_hash=hashed,
                is_admin=role == "admin",
            )
            for role in ROLES
        }
        desk, other = (
            projects.create_project(db, name=name, settings=asked, by=ids["admin"])
            for name in ("Care desk", "Elsewhere")
        )
        places: tuple[tuple[str, str, Role], ...] = (
            (desk, "lead", "lead"),
            (desk, "rater", "rater"),
            (desk, "rater2", "rater"),
            (other, "outsider", "lead"),
        )
        for project_id, who, role in places:
            projects.add_member(db, project_id, ids[who], role, by=ids["admin"])
        return Cast(ids=ids, project_id=desk, other_id=other)

    return database.write(fill)


def sign_in(database: Database, user_id: str) -> str:
    """Open a session straight in the store and return its token."""
    return database.write(lambda db: people.open_session(db, user_id, now_s=time.time()))


def plant(client: httpx2.Client, token: str, *, name: str = COOKIE) -> None:
    """Let a client send this session cookie, in the place of the one it has."""
    client.cookies.set(name, token, domain=client.base_url.host)


@dataclass(kw_only=True)
class App:
    """The application in this process, over a store that the test can look into."""

    database: Database
    cast: Cast
    settings: ServerSettings
    clients: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.asgi = create_app(self.database, settings=self.settings)

    def client(self, role: str | None = None, *, address: str = "testclient") -> TestClient:
        """Return a client that sends what our pages send; None: a visitor who is not signed in."""
        origin = self.settings.public_url or "http://127.0.0.1:8000"
        token = sign_in(self.database, self.cast.ids[role]) if role else secrets.token_urlsafe(32)
        client = TestClient(
            self.asgi,
            base_url=origin,
            client=(address, 50000),
            follow_redirects=False,
            headers={
                "Accept": "application/json",
                "Origin": origin,
                "X-CSRF-Token": csrf_token(token),
            },
        )
        plant(client, token, name=cookie_name(self.settings))
        return self.clients.enter_context(client)


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cast]:
    """A SQLite store with the cast in it, to copy."""
    path = tmp_path_factory.mktemp("seeded") / "labels.db"
    with Database(path) as database:
        return path, make_cast(database)


@pytest.fixture
def app(seeded: tuple[Path, Cast], tmp_path: Path) -> Iterator[App]:
    """The application over a SQLite store of its own with the cast in it."""
    shutil.copy(seeded[0], tmp_path / "labels.db")
    with Database(tmp_path / "labels.db") as database:
        made = App(database=database, cast=seeded[1], settings=ServerSettings())
        with made.clients:
            yield made


@dataclass(kw_only=True)
class Server:
    """`preftune label` as a real process. `kill` and `start` again keep store and address."""

    store: str  # path or URL
    port: int
    log: Path
    cast: Cast
    tokens: dict[str, str]  # role → token of a session that is open
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def project_id(self) -> str:
        return self.cast.project_id

    def start(self) -> None:
        """Start, and return once it answers."""
        flags = ["--store", self.store, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*LABEL, *flags], stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            said = self.log.read_text()
            assert self.process.poll() is None, f"the server did not start:\n{said}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{said}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/login", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit code."""
        assert self.process is not None
        self.process.send_signal(sign)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """End it as a loss of power would."""
        self.stop(signal.SIGKILL)

    def client(self, role: str) -> httpx2.Client:
        """Return an HTTP client that is signed in and sends what our pages send."""
        token = self.tokens[role]
        return httpx2.Client(
            base_url=self.url,
            cookies={COOKIE: token},
            headers={
                "Accept": "application/json",
                "Origin": self.url,
                "X-CSRF-Token": csrf_token(token),
            },
            trust_env=False,
            timeout=30,
        )

    def database(self) -> Database:
        """Open its store; only while the process is stopped, or with PostgreSQL."""
        return Database(self.store)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Look into its store while it runs; SQLite lets others read."""
        engine = create_engine(f"sqlite:///file:{self.store}?mode=ro&uri=true")
        with engine.connect() as db:
            yield db
        engine.dispose()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def projects_wanted() -> dict[str, Place]:
    """Projects of the two raters beside the cast's, by name; a module overrides this."""
    return {}


@pytest.fixture(scope="module")
def places() -> dict[str, str]:
    """Name → id of those projects, once the server runs."""
    return {}


@pytest.fixture(scope="module")
def fill_store(
    projects_wanted: dict[str, Place], places: dict[str, str]
) -> Callable[[Database, Cast], None]:
    """What is in the store before the server starts; a module overrides this."""

    def fill(database: Database, cast: Cast) -> None:
        for name, place in projects_wanted.items():
            places[name] = make_place(database, cast, name, place)

    return fill


@pytest.fixture(scope="module")
def project_settings() -> ProjectSettings:
    """Settings of the cast's project; a module overrides this."""
    return ProjectSettings()


@pytest.fixture(scope="module")
def make_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Server]]:
    """Start servers, each over a store of its own; they end with the module."""
    running: list[Server] = []

    def make(
        fill: Callable[[Database, Cast], None],
        *,
        settings: ProjectSettings | None = None,
        store: str | None = None,
    ) -> Server:
        folder = tmp_path_factory.mktemp("server")
        where = store or str(folder / "labels.db")
        with Database(where) as database:
            cast = make_cast(database, settings)
            fill(database, cast)
            tokens = {role: sign_in(database, cast.ids[role]) for role in ROLES}
        log = folder / "server.log"
        made = Server(store=where, port=free_port(), log=log, cast=cast, tokens=tokens)
        made.start()
        running.append(made)
        return made

    yield make
    for one in running:
        if one.process is not None and one.process.poll() is None:
            one.stop()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    fill_store: Callable[[Database, Cast], None],
    project_settings: ProjectSettings,
) -> Iterator[Site]:
    """One server for the module, filled by `fill_store`."""
    with open_site(
        tmp_path_factory.mktemp("site") / "labels.db", fill_store, project_settings
    ) as it:
        yield it


@contextmanager
def open_site(
    store: Path | str,
    fill: Callable[[Database, Cast], None],
    settings: ProjectSettings | None = None,
) -> Iterator[Site]:
    """Serve a new store from a thread until the block ends."""
    with Database(store) as database:
        cast = make_cast(database, settings)
        fill(database, cast)
        tokens = {role: sign_in(database, cast.ids[role]) for role in ROLES}
        with served(database, cast, tokens) as made:
            yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window.

    Playwright keeps an event loop running in this thread, where no other may run meanwhile: it is
    gone when the tests of another module begin.
    """
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Open pages, signed in by role; they close with the test."""
    opened: list[Page] = []

    def make(role: str | None, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Page:
        opened.append(open_page(browser, site, role, size=size, dark=dark))
        return opened[-1]

    yield make
    for page in opened:
        page.context.close()


@pytest.fixture
def at(places: dict[str, str], browser_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open the rater's page of a project by its name, and wait for its first item."""

    def open_(name: str, role: str = "rater", **looks: Any) -> Page:
        page = browser_page(role, **looks)
        go(page, places[name])
        return page

    return open_


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return fetch_axe()
