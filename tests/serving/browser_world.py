"""A server in a thread of this process, and pages of Debian's Chromium before it.

It listens as the real one does, but starts at once, and a test can look into its store and put
something there while it runs. Tests that kill a server take the real process of `make_server`.
"""

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from playwright.sync_api import Browser, Page, Route
from sqlalchemy import Connection

from preftune.serving.app import create_app
from preftune.serving.settings import ServerSettings
from preftune.store.database import Database

if TYPE_CHECKING:
    from fastapi import FastAPI
    from tests.serving.conftest import Cast, Server

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROBE = "fetch('/is-it-caught').then(() => false, () => true)"  # true: it did not get through
DESKTOP, PHONE = (1280, 800), (390, 844)
PATIENCE_MS = 30_000
POLL_MS = 25
COOKIE = "preftune"
AXE = "axe-core@4.10.3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The labelling server in a thread, and its open store."""

    url: str
    database: Database
    cast: "Cast"
    tokens: dict[str, str]  # role → token of a session that is open

    @property
    def project_id(self) -> str:
        return self.cast.project_id

    def reading(self) -> AbstractContextManager[Connection]:
        """Look into the store."""
        return self.database.read()


@contextmanager
def served(
    database: Database, cast: "Cast", tokens: dict[str, str], *, app: "FastAPI | None" = None
) -> Iterator[Site]:
    """Serve a store from a thread until the block ends; `app`: more than the labelling app."""
    asgi = app or create_app(database, settings=ServerSettings())
    config = uvicorn.Config(asgi, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Site(url=f"http://127.0.0.1:{port}", database=database, cast=cast, tokens=tokens)
        finally:
            server.should_exit = True
            thread.join()


def open_page(
    browser: Browser,
    where: "Site | Server",
    role: str | None,
    *,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
) -> Page:
    """Return a page in a context of its own, signed in as `role`; None: a visitor."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        has_touch=size == PHONE,
        base_url=where.url,
    )
    if role:
        context.add_cookies([{"name": COOKIE, "value": where.tokens[role], "url": where.url}])
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def complaints(page: Page) -> list[str]:
    """Collect what the page complains of from now on: errors it raises, lines it logs as errors."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda line: found.append(line.text) if line.type == "error" else None)
    return found


def wait_until(page: Page, condition: str, given: Any = None) -> None:
    """Wait until a condition on the page holds.

    Playwright's own `wait_for_function` evaluates text within the page, which our policy forbids.
    """
    wait_for(page, lambda: page.evaluate(condition, given), condition)


def wait_for(page: Page, condition: Callable[[], object], told: str) -> None:
    """Wait until a condition holds; meanwhile the page's handlers are heard."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < deadline, told
        page.wait_for_timeout(POLL_MS)


def intercept(page: Page, url: str, handler: Callable[..., Any]) -> None:
    """Give a page's requests to a handler from now on.

    The page learns a moment later that its requests go another way; what it sends before that is
    not caught. So requests of our own are sent until one is.
    """
    caught: list[str] = []

    def catch(route: Route) -> None:
        caught.append(route.request.url)
        route.abort()

    page.route("**/is-it-caught", catch)
    page.route(url, handler)
    wait_for(page, lambda: page.evaluate(PROBE) and caught, f"{url} is not caught")


def go_offline(page: Page) -> None:
    """Cut a page off, and wait until it is."""
    page.context.set_offline(True)
    wait_for(page, lambda: page.evaluate(PROBE), "the page is not cut off")


def sideways(page: Page) -> int:
    """Return by how many pixels the page is too wide for its screen."""
    found: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return found


def fetch_axe() -> str:
    """Return the source of axe-core, from the npm registry once and kept between sessions."""
    kept = Path(tempfile.gettempdir()) / "preftune-test-axe" / AXE
    source = kept / "package" / "axe.min.js"
    if not source.exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: install Debian's npm, which fetches axe-core for this test"
        kept.mkdir(parents=True, exist_ok=True)
        ran = subprocess.run(
            [npm, "pack", AXE], cwd=kept, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"axe-core cannot be fetched from npm: {ran.stderr[-500:]}"
        packed = kept / ran.stdout.split()[-1]
        subprocess.run(["tar", "-xzf", packed.name], cwd=kept, check=True)
    return source.read_text()


def offences(page: Page, axe: str) -> list[str]:
    """Return what axe finds serious or critical, and what it says of the contrast in the dark."""
    if page.evaluate("typeof window.axe === 'undefined'"):
        page.evaluate(axe)
    found = _violations(page, "{resultTypes: ['violations']}")
    page.emulate_media(color_scheme="dark")
    found += _violations(page, "{runOnly: ['color-contrast']}")
    page.emulate_media(color_scheme="light")
    return found


def _violations(page: Page, how: str) -> list[str]:
    found: Any = page.evaluate(f"axe.run(document, {how})")
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
