"""The page of API keys: made here and shown once, revoked here."""

import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.responses import Response

from preftune.serving.job_frame import At
from preftune.serving.lead_payload import Done
from preftune.serving.web import Line, Nothing, Payload
from preftune.store.api_keys import (
    MOST_PER_MINUTE,
    REQUESTS_PER_MINUTE,
    SCOPES,
    keys_of,
    make_key,
    revoke,
)
from preftune.store.overview import names_of

router = APIRouter()
DAY_S = 24 * 3600.0
EXPIRIES = (
    (0, "never"),
    (1, "in a day"),
    (30, "in 30 days"),
    (90, "in 90 days"),
    (365, "in a year"),
)


class NewKey(Payload):
    """A key to make."""

    name: Line
    scopes: Annotated[dict[Annotated[str, Field(max_length=40)], bool], Field(max_length=40)]
    days: Annotated[int, Field(ge=0, le=3650)]  # 0: it never expires
    per_minute: Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A key that was made: its secret, told this once."""

    secret: str


@router.get("/keys", include_in_schema=False)
def keys_page(at: At) -> Response:
    """Show the keys that hold, and the form for another."""
    with at.database.read() as db:
        found = keys_of(db, at.project_id)
        names = names_of(db, [key.made_by for key in found])
    return at.page(
        "keys.html.jinja",
        keys=found,
        names=names,
        scopes=SCOPES,
        expiries=EXPIRIES,
        per_minute=REQUESTS_PER_MINUTE,
        most=MOST_PER_MINUTE,
        now_s=time.time(),
        url=at.url,
    )


@router.post("/keys")
def make(at: At, body: NewKey) -> Made:
    """Make a key."""
    now_s = time.time()
    scopes = [scope for scope, wanted in body.scopes.items() if wanted]
    expires_s = now_s + DAY_S * body.days if body.days else None
    _, secret = at.database.write(
        lambda db: make_key(
            db,
            project_id=at.project_id,
            name=body.name,
            scopes=scopes,
            by=at.user_id,
            expires_s=expires_s,
            requests_per_minute=body.per_minute,
            now_s=now_s,
        )
    )
    return Made(secret=secret)


@router.post("/keys/{key_id}/revoke")
def revoke_key(at: At, key_id: Annotated[str, Path(max_length=64)], _: Nothing) -> Done:
    """Let a key open nothing from now on."""
    at.database.write(lambda db: revoke(db, at.project_id, key_id, now_s=time.time()))
    return Done(message="The key is revoked.")
