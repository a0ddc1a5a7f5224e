"""All routes of the API, and how they join the server."""

from fastapi import APIRouter, FastAPI

from preftune.serving.api import (
    chat,
    completions,
    files,
    graders,
    jobs,
    keys,
    models,
    operations,
    uploads,
)
from preftune.serving.api.errors import ApiError, on_api_error
from preftune.serving.api.limits import LimitSettings
from preftune.serving.meters import Meters


def api_routers() -> tuple[APIRouter, ...]:
    """Return the routers of everything under /v1, the busiest first."""
    return (
        chat.router,
        completions.router,
        jobs.router,
        models.router,
        files.router,
        uploads.router,
        graders.router,
        keys.router,
    )


def mount_api(app: FastAPI, *, limits: LimitSettings | None = None) -> None:
    """Let a server answer for the API, its health and its figures.

    The store is `app.state.database`. What routes need beside it is in `app.state` too, and each
    says so.
    """
    app.state.limits, app.state.meters = limits or LimitSettings(), Meters()
    app.exception_handler(ApiError)(on_api_error)
    for router in (*api_routers(), operations.router):
        app.include_router(router)
