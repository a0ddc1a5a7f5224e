"""The lead's pages: what goes on, and all that a lead decides. Raters get 404 on each of them."""

import datetime as dt
from dataclasses import dataclass

from fastapi import APIRouter, Depends
from starlette.responses import Response

from preftune.serving import (
    lead_adjudication,
    lead_datasets,
    lead_guideline,
    lead_items,
    lead_log,
    lead_raters,
    lead_settings,
)
from preftune.serving.auth import lead_of
from preftune.serving.lead_cache import Counted, counted
from preftune.serving.lead_pages import At, Desk
from preftune.store.adjudication import open_flags
from preftune.store.agreement import REAL_SETS, Agreement
from preftune.store.overview import ItemCounts, Recent, item_counts, names_of, recent

router = APIRouter(prefix="/p/{project_id}/lead", tags=["lead"], dependencies=[Depends(lead_of)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
    """What the overview shows of this moment; `at` and `age` say when the agreement was counted."""

    items: ItemCounts
    votes_this_hour: int
    at_work: int
    at: str
    age: str  # in words; empty while it is nothing to tell
    agreement: tuple[Agreement, ...]


@router.get("", include_in_schema=False)
def show(at: At) -> Response:
    """Show how far the project is, how well raters agree, and what to look at."""
    found = counted(at.database, at.project_id)
    counts, lately = _state(at)
    with at.database.read() as db:
        flags = open_flags(db, at.project_id)
        flagged = [row for row in found.raters if row.flags]
        names = names_of(db, [row.user_id for row in flagged])
    return at.page(
        "lead_overview.html.jinja",
        counts=counts,
        recent=lately,
        found=found,
        real_sets=REAL_SETS[found.agreement[0].level],
        flags=flags,
        flagged=flagged,
        names=names,
    )


@router.get("/now")
def now(at: At) -> Now:
    """Return the figures of the overview that move while people work."""
    found: Counted = counted(at.database, at.project_id)
    counts, lately = _state(at)
    return Now(
        items=counts,
        votes_this_hour=lately.hours[-1].votes,
        at_work=sum(one.has_item for one in lately.at_work),
        at=found.at,
        age=found.age,
        agreement=found.agreement,
    )


def _state(at: Desk) -> tuple[ItemCounts, Recent]:
    with at.database.read() as db:
        now_utc = dt.datetime.now(dt.UTC)
        return item_counts(db, at.project_id), recent(db, at.project_id, now=now_utc)


for part in (
    lead_items.router,
    lead_adjudication.router,
    lead_raters.router,
    lead_guideline.router,
    lead_settings.router,
    lead_datasets.router,
    lead_log.router,
):
    router.include_router(part)
