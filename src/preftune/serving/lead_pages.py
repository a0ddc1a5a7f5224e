"""What every page of the lead has: the project, the way round, and who may see it."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from preftune.serving.auth import LeadOf
from preftune.serving.web import page
from preftune.store.database import Database
from preftune.store.projects import project

SECTIONS = (
    ("", "Overview"),
    ("/items", "Items"),
    ("/known", "Gold and calibration"),
    ("/adjudication", "Adjudication"),
    ("/raters", "Raters"),
    ("/guideline", "Guideline"),
    ("/settings", "Settings"),
    ("/datasets", "Datasets"),
    ("/log", "Log"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where a lead sits: the request, the store, the project, and who they are."""

    request: Request
    database: Database
    project_id: str
    user_id: str

    def page(self, template: str, **context: Any) -> Response:
        """Return one of the lead's pages."""
        with self.database.read() as db:
            where = project(db, self.project_id)
        base = f"/p/{self.project_id}/lead"
        shared: dict[str, Any] = {"project": where, "base": base, "sections": SECTIONS}
        return page(self.request, template, **shared, **context)


def desk(request: Request, member: LeadOf) -> Desk:
    """Return the place of the lead who asks; anybody else gets 404 from `lead_of`."""
    return Desk(
        request=request,
        database=request.app.state.database,
        project_id=member.project_id,
        user_id=member.person.id,
    )


At = Annotated[Desk, Depends(desk)]
