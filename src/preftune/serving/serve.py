"""The whole server: the labelling app, the API, and the workers and models behind it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI
from sqlalchemy import Connection, select

from preftune.files import make_folder
from preftune.serving import job_pages
from preftune.serving.api import internal
from preftune.serving.api.limits import LimitSettings
from preftune.serving.api.router import mount_api
from preftune.serving.api.settings import ApiSettings
from preftune.serving.app import create_app, run
from preftune.serving.backend import Backend, BackendSettings, OwnBackend
from preftune.serving.base_models import BaseModels
from preftune.serving.settings import ServerSettings
from preftune.serving.supervisor import WORKER, Supervisor
from preftune.serving.url_backend import UrlBackend
from preftune.store.api_keys import make_key
from preftune.store.blobs import collect_orphans
from preftune.store.database import Database
from preftune.store.job_schema import api_keys
from preftune.store.projects import ProjectSettings, create_project, project_named

PROJECT = "default"  # made where there is none, for the first key
SETUP = "setup"  # who made them
BACKEND_LOG = "generation.log"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """What can be turned on the server beside where it listens."""

    api: ApiSettings = field(default_factory=ApiSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    backend: BackendSettings = field(default_factory=BackendSettings)


def create_server(
    database: Database,
    *,
    settings: ServerSettings,
    options: ServeSettings,
    bases: BaseModels,
    backend: Backend,
    supervisor: Supervisor,
) -> FastAPI:
    """Return the application; the caller opens and closes what it is given."""
    app = create_app(database, settings=settings)
    app.title = "preftune"
    app.state.api, app.state.base_models = options.api, bases
    app.state.backend, app.state.supervisor = backend, supervisor
    mount_api(app, limits=options.limits)
    app.include_router(internal.router)
    app.include_router(job_pages.router)
    return app


def serve_all(
    database: Database,
    settings: ServerSettings,
    *,
    options: ServeSettings,
    bases: BaseModels,
    ready: Callable[[str], None],
    worker: str = WORKER,
) -> None:
    """Answer requests and train until SIGTERM or Ctrl-C; then every worker leaves a checkpoint.

    A second signal ends them at once. Jobs go on when the server is started again.

    Args:
        database: open; whoever opened it closes it after this.
        settings: where to listen.
        options: checked.
        bases: models that can be tuned and asked.
        ready: hears the address once the server listens.
        worker: module of the processes that train.

    Raises:
        SettingsError: the address is taken, or not of this machine.
    """
    collect_orphans(database)
    backend = _backend(database, options)
    supervisor = Supervisor(database, bases=bases, api=options.api, module=worker)
    app = create_server(
        database,
        settings=settings,
        options=options,
        bases=bases,
        backend=backend,
        supervisor=supervisor,
    )

    def listening(url: str, local: str) -> None:
        supervisor.start(local)
        ready(url)

    try:
        run(app, settings, ready=listening, leave=supervisor.stop, has_workers=True)
    finally:
        supervisor.stop()
        supervisor.join()
        backend.close()


def _backend(database: Database, options: ServeSettings) -> Backend:
    """Return who answers chats: another server, where one is named, or a process of ours."""
    if options.api.inference_url:
        return UrlBackend(options.api.inference_url, options.backend)
    make_folder(database.files)
    return OwnBackend(options.backend, log=database.files / BACKEND_LOG)


def first_key(database: Database) -> str | None:
    """Return the secret of a key to everything in the project "default"; None once there is one.

    It is made here, with its project, and cannot be shown again.
    """

    def make(db: Connection) -> str | None:
        if db.scalar(select(api_keys.c.id).limit(1)) is not None:
            return None
        project_id = project_named(db, PROJECT) or create_project(
            db, name=PROJECT, settings=ProjectSettings(), by=SETUP
        )
        _, secret = make_key(
            db, project_id=project_id, name="first key", by=SETUP, now_s=time.time()
        )
        return secret

    return database.write(make)
