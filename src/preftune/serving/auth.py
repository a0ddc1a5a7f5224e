"""Who asks, and what they may do: the dependencies every route names in its signature.

    @router.get("/p/{project_id}/label")
    def label(request: Request, member: InProject) -> Response: ...

Whoever is not signed in gets 401 (a person is sent to the sign-in page). A project that one does
not work in is 404, like one that is not there: nobody can find out which projects exist.
"""

import re
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from preftune.errors import StoreError
from preftune.serving.passwords import is_password
from preftune.serving.security import csrf_token, session_token
from preftune.serving.settings import ServerSettings
from preftune.serving.web import set_session
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.people import Person
from preftune.store.projects import MemberState, Role

PROJECT_ID = re.compile(r"prj-[0-9a-f]{32}")
HOME = "/projects"  # where whoever signs in begins
TRIES, WINDOW_S = 5, 15 * 60.0
SEEN_EVERY_S = 60.0  # how often the use of a session is written down


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A person in a project. Admins count as leads of every project."""

    person: Person
    project_id: str
    role: Role
    state: MemberState


async def database_of(request: Request) -> Database:
    """Return the store."""
    return _database(request)


async def settings_of(request: Request) -> ServerSettings:
    """Return the server's settings."""
    return _settings(request)


def visitor(request: Request) -> Person | None:
    """Return who asks, None when nobody is signed in."""
    with _database(request).read() as db:
        return _who(request, db)


def signed_in(request: Request) -> Person:
    """Return who asks.

    Raises:
        HTTPException: 401, nobody is signed in.
    """
    return _must_be(visitor(request))


def admin(request: Request) -> Person:
    """Return the admin who asks.

    Raises:
        HTTPException: 401, or 404 for anybody else.
    """
    person = signed_in(request)
    if not person.is_admin:
        raise HTTPException(404)
    return person


def member_of(request: Request, project_id: str) -> Member:
    """Return who asks, as a member of the project in the path.

    Raises:
        HTTPException: 401, or 404 for whoever does not work in it.
    """
    with _database(request).read() as db:
        return enter(request, db, project_id)


def enter(request: Request, db: Connection, project_id: str) -> Member:
    """Return who asks, as `member_of`, over a connection that the request uses anyway.

    Raises:
        HTTPException: 401, or 404 for whoever does not work in it.
    """
    return membership(db, _must_be(_who(request, db)), project_id)


def lead_of(request: Request, project_id: str) -> Member:
    """Return who asks, as a lead of the project in the path.

    Raises:
        HTTPException: 401, or 404 for raters and whoever does not work in it.
    """
    member = member_of(request, project_id)
    if member.role != "lead" or member.state != "active":
        raise HTTPException(404)
    return member


SignedIn = Annotated[Person, Depends(signed_in)]
Admin = Annotated[Person, Depends(admin)]
InProject = Annotated[Member, Depends(member_of)]
LeadOf = Annotated[Member, Depends(lead_of)]
Store = Annotated[Database, Depends(database_of)]
Settings = Annotated[ServerSettings, Depends(settings_of)]


def membership(db: Connection, person: Person, project_id: str) -> Member:
    """Return a person's place in a project.

    Raises:
        HTTPException: 404, no such project or not theirs.
    """
    if not PROJECT_ID.fullmatch(project_id):
        raise HTTPException(404)
    if person.is_admin:
        try:
            projects.project(db, project_id)
        except StoreError as error:
            raise HTTPException(404) from error
        return Member(person=person, project_id=project_id, role="lead", state="active")
    found = projects.member(db, project_id, person.id)
    if found is None:
        raise HTTPException(404)
    return Member(person=person, project_id=project_id, role=found.role, state=found.state)


def check_password(database: Database, *, email: str, password: str, address: str) -> Person | None:
    """Return the person with this address and password, None for any other pair.

    Every try counts against the account and the network address before it is made; a right one is
    taken back. An unknown address takes as long as a wrong password.

    Raises:
        HTTPException: 429, too many wrong ones within a quarter of an hour.
    """
    who = (f"account:{people.clean_email(email)}"[:330], f"address:{address}")
    now_s = time.time()
    attempt = database.write(
        lambda db: people.begin_attempt(db, who, now_s=now_s, window_s=WINDOW_S, most=TRIES)
    )
    if attempt is None:
        raise HTTPException(429, headers={"Retry-After": str(round(WINDOW_S))})
    with database.read() as db:
        found = people.account(db, email)
    if not is_password(password, found[1] if found else None) or found is None:
        return None
    database.write(lambda db: people.forgive_attempt(db, attempt))
    return None if found[0].disabled else found[0]


def let_in(request: Request, store: Database, settings: ServerSettings, user_id: str) -> Response:
    """Open a session under a new token; the one the browser had is over."""
    before, now_s = session_token(request.scope, settings), time.time()

    def reopen(db: Connection) -> str:
        people.end_session(db, before)
        return people.open_session(db, user_id, now_s=now_s)

    token = store.write(reopen)
    answer = JSONResponse({"next": HOME, "csrf": csrf_token(token)})
    set_session(answer, settings, token)
    return answer


def _who(request: Request, db: Connection) -> Person | None:
    database, settings = _database(request), _settings(request)
    token, now_s = session_token(request.scope, settings), time.time()
    idle_s, whole_s = 3600 * settings.idle_hours, 24 * 3600 * settings.session_days
    found = people.session(db, token, now_s=now_s, idle_s=idle_s, whole_s=whole_s)
    if found is None:
        return None
    if abs(now_s - found.seen_s) > SEEN_EVERY_S:
        database.submit(lambda writing: people.keep_session(writing, token, now_s=now_s))
    request.state.person = found.person
    return found.person


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _settings(request: Request) -> ServerSettings:
    settings: ServerSettings = request.app.state.settings
    return settings


def _must_be(person: Person | None) -> Person:
    if person is None:
        raise HTTPException(401)
    return person
