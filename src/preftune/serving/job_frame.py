"""What every page about jobs has: the project, the way round, and who may see it."""

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from preftune.serving.auth import LeadOf
from preftune.serving.web import page
from preftune.store.database import Database
from preftune.store.projects import project

SECTIONS = (
    ("/jobs", "Jobs"),
    ("/runs", "Curves"),
    ("/models", "Models"),
    ("/files", "Files"),
    ("/keys", "Keys"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where somebody sits who looks after jobs: the request, the store, the project, who it is."""

    request: Request
    database: Database
    project_id: str
    user_id: str

    @property
    def base(self) -> str:
        """Return the path that all pages of the project begin with."""
        return f"/p/{self.project_id}"

    @property
    def url(self) -> str:
        """Return the address of the server as whoever asks reaches it, such as http://host:8000."""
        settings = self.request.app.state.settings
        return (settings.public_url or str(self.request.base_url)).rstrip("/")

    def page(self, template: str, **context: Any) -> Response:
        """Return one of the pages about jobs."""
        with self.database.read() as db:
            where = project(db, self.project_id)
        shared: dict[str, Any] = {"project": where, "base": self.base, "sections": SECTIONS}
        return page(self.request, template, **shared, at_utc=at_utc, **context)


def desk(request: Request, member: LeadOf) -> Desk:
    """Return the place of the lead or admin who asks; anybody else gets 404 from `lead_of`."""
    return Desk(
        request=request,
        database=request.app.state.database,
        project_id=member.project_id,
        user_id=member.person.id,
    )


def at_utc(seconds: float) -> str:
    """Return a time as 2026-11-21T09:30:00, in UTC, from seconds since 1970."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


At = Annotated[Desk, Depends(desk)]
