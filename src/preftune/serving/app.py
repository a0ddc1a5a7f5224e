"""The labelling server: one process, one store, pages and JSON for people's browsers."""

import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from preftune import __version__
from preftune.errors import PreftuneError, SettingsError
from preftune.serving import accounts, labelling, lead
from preftune.serving.api.limits import BodyLimit
from preftune.serving.problems import on_http_error, on_invalid, on_our_error
from preftune.serving.security import Guard, Shield, access_log
from preftune.serving.settings import LOOPBACK, ServerSettings
from preftune.settings import checked
from preftune.store import people
from preftune.store.database import Database

ROUTERS = (labelling.router, accounts.router, lead.router)  # the busiest first
STATIC = Path(__file__).with_name("static")
LAST_REQUESTS_S = 10  # how long a stopping server waits for answers under way
SETUP_DAYS = 1.0
STOPS = (signal.SIGTERM, signal.SIGINT)


def create_app(database: Database, *, settings: ServerSettings) -> FastAPI:
    """Return the application; the caller opens and closes the store."""
    app = FastAPI(
        title="preftune label",
        version=__version__,
        openapi_url=None,  # `app.openapi()` has it; nobody else needs to see it
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.database, app.state.settings = database, checked(settings)
    app.add_middleware(BodyLimit, max_body_size=settings.body_limit_mib * 1024 * 1024)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Shield, settings=settings)  # added last: outermost
    app.exception_handler(HTTPException)(on_http_error)
    app.exception_handler(RequestValidationError)(on_invalid)
    app.exception_handler(PreftuneError)(on_our_error)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def setup_link(database: Database, url: str) -> str | None:
    """Return the link that makes the first admin, None once there is one.

    Each call makes a fresh link, which holds for a day; the one before it holds no more.
    """
    with database.read() as db:
        if not people.nobody_yet(db):
            return None
    expires_s = time.time() + 24 * 3600 * SETUP_DAYS
    token = database.write(lambda db: people.invite_first_admin(db, expires_s=expires_s))
    return f"{url}/setup#{token}"


def serve(database: Database, settings: ServerSettings, *, ready: Callable[[str], None]) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish those under way and return.

    Args:
        database: open; whoever opened it closes it after this, which writes all that is queued.
        settings: where to listen.
        ready: hears the address once the server listens.

    Raises:
        SettingsError: the address is taken, or not of this machine.
    """
    run(create_app(database, settings=settings), settings, ready=lambda url, _: ready(url))


def run(
    app: FastAPI,
    settings: ServerSettings,
    *,
    ready: Callable[[str, str], None],
    leave: Callable[[Callable[[], None]], None] = lambda end: end(),
    has_workers: bool = False,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish those under way and return.

    Args:
        app: what answers.
        settings: where to listen.
        ready: hears the address for people, and the one for processes of this machine, once the
            server listens.
        leave: called at each signal with what ends the server, now or later.
        has_workers: listen on loopback as well, whatever the world is offered: they come there.

    Raises:
        SettingsError: the address is taken, or not of this machine.
    """
    _log_to(settings.access_log)
    with ExitStack() as open_:
        sockets = [open_.enter_context(_listen(settings))]
        port = sockets[0].getsockname()[1]
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        local = f"http://{name}:{port}"
        if has_workers and settings.host not in LOOPBACK:
            sockets.append(open_.enter_context(socket.create_server((LOOPBACK[0], 0))))
            local = f"http://{LOOPBACK[0]}:{sockets[1].getsockname()[1]}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=settings.tls,
            timeout_graceful_shutdown=LAST_REQUESTS_S,
        )
        url = settings.public_url or f"http://{name}:{port}"
        server = _Server(config, lambda: ready(url, local), leave)
        before = {sign: signal.signal(sign, server.stop) for sign in STOPS}
        gc.collect()
        gc.freeze()  # what is loaded now stays: going through it again stops every request
        gc.enable()  # where a command put it off
        try:
            server.run(sockets=sockets)
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        leave: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(config)
        self.ready, self.leave = ready, leave

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so; signals are ours, uvicorn has just taken them."""
        for sign in STOPS:
            signal.signal(sign, self.stop)
        await super().startup(sockets=sockets)
        self.ready()

    def stop(self, _signal: int, _frame: object) -> None:
        """Take a signal in the place of uvicorn, which would end at once."""
        self.leave(self._end)

    def _end(self) -> None:
        self.should_exit = True


class _ToStandardError(logging.Handler):
    """Writes to what standard error is now; a handler of the library keeps what it was."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(f"{self.format(record)}\n")


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(
            f"port {settings.port} of {settings.host}: {error.strerror or error}. "
            "Stop what listens there, or take another --port."
        ) from error


def _log_to(path: Path | None) -> None:
    """Write access lines and errors to standard error, or access lines to a file."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    access_log.handlers = [logging.FileHandler(path) if path else _ToStandardError()]
    access_log.propagate = False
    access_log.setLevel(logging.INFO)
