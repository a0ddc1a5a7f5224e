"""Pages and routes about people: first start, signing in, invitations, projects."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from preftune.serving import password_reset
from preftune.serving.auth import (
    HOME,
    Admin,
    Settings,
    SignedIn,
    Store,
    check_password,
    let_in,
    membership,
    visitor,
)
from preftune.serving.passwords import check_new_password, hash_password
from preftune.serving.security import cookie_name, csrf_token, session_token
from preftune.serving.web import Line, Nothing, Password, Payload, Token, local_path, page
from preftune.settings import build
from preftune.store import people, projects
from preftune.store.people import InviteRole
from preftune.store.projects import Kind, ProjectSettings, progress

router = APIRouter()
router.include_router(password_reset.router)


class SignIn(Payload):
    """Who signs in."""

    email: Line
    password: Password


class Newcomer(Payload):
    """Who comes in by an invitation."""

    token: Token
    name: Line
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=200)]
    password: Password


class InviteToken(Payload):
    """An invitation that somebody holds."""

    token: Token


class PasswordChange(Payload):
    """The password that holds, and the one that shall."""

    current: Password
    new: Password


class NewInvite(Payload):
    """Whom to invite."""

    role: InviteRole
    project_id: Line | None = None


class NewProject(Payload):
    """A project to make; the lead sets the rest later."""

    name: Line
    kind: Kind
    dimensions: Annotated[list[Line], Field(min_length=1, max_length=20)]
    raters_per_item: Annotated[int, Field(ge=1, le=1000)]


@router.get("/", include_in_schema=False)
def home(request: Request, store: Store) -> Response:
    """Send a visitor where the work is."""
    if visitor(request):
        return RedirectResponse(HOME, 303)
    with store.read() as db:
        return RedirectResponse("/setup" if people.nobody_yet(db) else "/login", 303)


@router.get("/login")
def login_page(
    request: Request, go_on: Annotated[str, Query(alias="next", max_length=1000)] = HOME
) -> Response:
    """Show the form to sign in."""
    aim = local_path(go_on, otherwise=HOME)
    if visitor(request):
        return RedirectResponse(aim, 303)
    return page(request, "login.html.jinja", aim=aim)


@router.post("/api/login")
def login(request: Request, store: Store, settings: Settings, body: SignIn) -> Response:
    """Sign in; the session has a new token, whatever the browser had before."""
    address = request.client.host if request.client else ""
    person = check_password(store, email=body.email, password=body.password, address=address)
    if person is None:
        raise HTTPException(401, "E-mail address and password do not fit together.")
    return let_in(request, store, settings, person.id)


@router.post("/api/logout")
def logout(request: Request, store: Store, settings: Settings, _: Nothing) -> Response:
    """Sign out."""
    token = session_token(request.scope, settings)
    store.write(lambda db: people.end_session(db, token))
    answer = JSONResponse({"next": "/login"})
    answer.delete_cookie(cookie_name(settings), secure=settings.tls, httponly=True, samesite="lax")
    return answer


@router.get("/api/session")
def session(request: Request, settings: Settings, person: SignedIn) -> dict[str, str]:
    """Say who is signed in, and the token that pages send along, for one that is out of date."""
    token = session_token(request.scope, settings)
    return {"name": person.name, "csrf": csrf_token(token)}


@router.get("/setup")
def setup_page(request: Request, store: Store) -> Response:
    """Show the form that makes the first admin."""
    with store.read() as db:
        if not people.nobody_yet(db):
            return RedirectResponse("/login", 303)
    return page(request, "setup.html.jinja")


@router.get("/invite")
def invite_page(request: Request) -> Response:
    """Show the form to accept an invitation; its token is behind the #, which no server sees."""
    visitor(request)
    return page(request, "invite.html.jinja")


@router.post("/api/invites/look")
def look_at_invite(store: Store, body: InviteToken) -> dict[str, str | None]:
    """Say what an invitation is for."""
    with store.read() as db:
        found = people.find_invite(db, body.token, now_s=time.time())
        project = projects.project(db, found.project_id).name if found.project_id else None
    return {"role": found.role, "project": project}


@router.post("/api/invites/accept")
def accept(request: Request, store: Store, settings: Settings, body: Newcomer) -> Response:
    """Make an account by an invitation, and sign in."""
    now_s = time.time()
    with store.read() as db:
        people.find_invite(db, body.token, now_s=now_s)  # before any costly hash
    check_new_password(body.password, email=body.email, name=body.name)
    hashed = hash_password(body.password)

    def come_in(db: Any) -> str:
        user_id = people.add_person(db, email=body.email, name=body.name, password_hash=hashed)
        people.use_invite(db, body.token, user_id, now_s=now_s)
        return user_id

    return let_in(request, store, settings, store.write(come_in))


@router.post("/api/invites/join")
def join(person: SignedIn, store: Store, body: InviteToken) -> dict[str, str]:
    """Accept an invitation with the account one has."""
    store.write(lambda db: people.use_invite(db, body.token, person.id, now_s=time.time()))
    return {"next": HOME}


@router.post("/api/invites")
def invite(
    request: Request, person: SignedIn, store: Store, settings: Settings, body: NewInvite
) -> dict[str, str]:
    """Invite somebody: admins anybody, leads to their project. The link is shown this once."""
    with store.read() as db:
        if body.project_id is None:
            _only(person.is_admin)
        else:
            _only(membership(db, person, body.project_id).role == "lead")
    expires_s = time.time() + 24 * 3600 * settings.invite_days
    token = store.write(
        lambda db: people.invite(
            db, role=body.role, project_id=body.project_id, by=person.id, expires_s=expires_s
        )
    )
    origin = settings.origin(request.headers.get("host", ""))
    return {"link": f"{origin}/invite#{token}"}


@router.post("/api/invites/{invite_id}/withdraw")
def withdraw(_person: Admin, store: Store, invite_id: str, _: Nothing) -> dict[str, str]:
    """Let an invitation hold no more."""
    store.write(lambda db: people.withdraw_invite(db, invite_id))
    return {"next": "/people"}


@router.get("/account")
def account_page(request: Request, _: SignedIn) -> Response:
    """Show one's own account."""
    return page(request, "account.html.jinja")


@router.post("/api/password")
def change_password(
    request: Request, person: SignedIn, store: Store, settings: Settings, body: PasswordChange
) -> Response:
    """Change one's own password; every other session of the person ends."""
    address = request.client.host if request.client else ""
    known = check_password(store, email=person.email, password=body.current, address=address)
    if known is None:
        raise HTTPException(403, "This is not your password.")
    check_new_password(body.new, email=person.email, name=person.name)
    hashed = hash_password(body.new)
    store.write(lambda db: people.set_password(db, person.id, hashed))
    return let_in(request, store, settings, person.id)


@router.get("/people")
def people_page(request: Request, _: Admin, store: Store) -> Response:
    """Show everybody with an account, and the invitations that wait."""
    now_s = time.time()
    with store.read() as db:
        everybody = people.people(db)
        waiting = people.open_invites(db, now_s=now_s)
        known = projects.projects_of(db, None)
        places = {
            (member.user_id, project.name): member.role
            for project in known
            for member in projects.members_of(db, project.id)
        }
    return page(
        request,
        "people.html.jinja",
        people=everybody,
        places={
            one.id: [(name, role) for (who, name), role in places.items() if who == one.id]
            for one in everybody
        },
        invites=[(one, max(1, round((one.expires_s - now_s) / 3600))) for one in waiting],
        projects=known,
        names={one.id: one.name for one in known},
    )


@router.post("/api/people/{user_id}/disable")
def disable(_person: Admin, store: Store, user_id: str, _: Nothing) -> dict[str, str]:
    """Sign a person out everywhere and let them sign in no more."""
    store.write(lambda db: people.disable(db, user_id))
    return {"next": "/people"}


@router.post("/api/people/{user_id}/enable")
def enable(_person: Admin, store: Store, user_id: str, _: Nothing) -> dict[str, str]:
    """Let a person sign in again."""
    store.write(lambda db: people.enable(db, user_id))
    return {"next": "/people"}


@router.get("/projects")
def projects_page(request: Request, person: SignedIn, store: Store) -> Response:
    """Show the projects one works in."""
    with store.read() as db:
        mine = projects.projects_of(db, None if person.is_admin else person.id)
        places = [
            (one, membership(db, person, one.id), progress(db, one.id, person.id)) for one in mine
        ]
    return page(request, "projects.html.jinja", places=places)


@router.post("/api/projects")
def create_project(person: Admin, store: Store, body: NewProject) -> dict[str, str]:
    """Make a project with its maker as its lead."""
    chosen = body.model_dump(exclude={"name"})
    settings = build(ProjectSettings, chosen, where="project")

    def make(db: Any) -> str:
        project_id = projects.create_project(db, name=body.name, settings=settings, by=person.id)
        projects.add_member(db, project_id, person.id, "lead", by=person.id)
        return project_id

    return {"next": f"/p/{store.write(make)}/lead"}


def _only(allowed: bool) -> None:
    if not allowed:
        raise HTTPException(404)
