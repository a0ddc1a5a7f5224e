"""A new password for somebody who forgot theirs, by a link that an admin or the console makes.

A link works once and holds a day. It ends with any new password, and when its person is disabled.
"""

import time
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from preftune.errors import StoreError
from preftune.serving.auth import Admin, Settings, Store, let_in, visitor
from preftune.serving.passwords import check_new_password, hash_password
from preftune.serving.web import Nothing, Password, Payload, Token, page
from preftune.store import people
from preftune.store.database import Database

router = APIRouter()
HOLDS_S = 24 * 3600.0


class ResetToken(Payload):
    """A link that somebody holds."""

    token: Token


class NewPassword(ResetToken):
    """The link, and the password that shall hold."""

    new: Password


def reset_by_email(database: Database, email: str) -> str:
    """Return the token of a fresh link for the account with this e-mail address.

    Raises:
        StoreError: there is none, or it is disabled.
    """
    with database.read() as db:
        found = people.account(db, email)
    if found is None:
        raise StoreError(f"account {email}: is not there. Give the address that it was made with.")
    return database.write(partial(people.make_reset, user_id=found[0].id, expires_s=_expires_s()))


@router.get("/reset")
def reset_page(request: Request) -> Response:
    """Show the form for a new password; the link's token is behind the #, which no server sees."""
    visitor(request)
    return page(request, "reset.html.jinja")


@router.post("/api/reset/look")
def look_at_reset(store: Store, body: ResetToken) -> dict[str, str]:
    """Say whose password a link sets."""
    with store.read() as db:
        whom = people.find_reset(db, body.token, now_s=time.time())
    return {"name": whom.name, "email": whom.email}


@router.post("/api/reset")
def reset(request: Request, store: Store, settings: Settings, body: NewPassword) -> Response:
    """Set a password by a link, and sign in."""
    now_s = time.time()
    with store.read() as db:
        whom = people.find_reset(db, body.token, now_s=now_s)  # before any costly hash
    check_new_password(body.new, email=whom.email, name=whom.name)
    hashed = hash_password(body.new)
    used = partial(people.use_reset, token=body.token, password_hash=hashed, now_s=now_s)
    return let_in(request, store, settings, store.write(used))


@router.post("/api/people/{user_id}/reset")
def reset_link(
    request: Request, _person: Admin, store: Store, settings: Settings, user_id: str, _: Nothing
) -> dict[str, str]:
    """Make the link with which a person sets a new password. It is shown this once."""
    token = store.write(partial(people.make_reset, user_id=user_id, expires_s=_expires_s()))
    origin = settings.origin(request.headers.get("host", ""))
    return {"link": f"{origin}/reset#{token}"}


def _expires_s() -> float:
    return time.time() + HOLDS_S
