"""The log of a project, and whether anything in it was changed."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from preftune.errors import StoreError
from preftune.serving.lead_pages import At
from preftune.serving.lead_payload import LARGEST
from preftune.serving.web import Nothing
from preftune.store.events import verify
from preftune.store.overview import events_page, last_seq, names_of

router = APIRouter()
EVENTS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """Whether the chain of hashes holds, in words."""

    whole: bool
    message: str


@router.get("/log", include_in_schema=False)
def log_page(at: At, before: Annotated[int | None, Query(ge=1, le=LARGEST)] = None) -> Response:
    """Show the last events, or those before one."""
    with at.database.read() as db:
        found = events_page(db, at.project_id, before=before, count=EVENTS)
        names = names_of(db, [event.user_id for event in found])
        total = last_seq(db, at.project_id)
    told = {event.seq: msgspec.json.encode(event.data).decode() for event in found}
    return at.page(
        "lead_log.html.jinja",
        found=found,
        names=names,
        told=told,
        total=total,
        more=found[-1].seq if found and found[-1].seq > 1 else None,
    )


@router.post("/log/verify")
def verify_log(at: At, _: Nothing) -> Verified:
    """Check every event against the hash before it."""
    try:
        with at.database.read() as db:
            count = verify(db, at.project_id)
    except StoreError as error:
        return Verified(whole=False, message=str(error))
    return Verified(whole=True, message=f"All {count:,} events are as they were written.")
