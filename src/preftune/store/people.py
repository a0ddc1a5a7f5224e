"""People, their sessions and their invitations.

Tokens have 256 random bits and only their SHA-256 is kept: a stolen copy of the store opens no
session.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from preftune.errors import StoreError
from preftune.store.events import now
from preftune.store.prepared import Prepared
from preftune.store.projects import Role, add_member, member
from preftune.store.schema import invites, login_attempts, resets, sessions, users

InviteRole = Literal["admin", "lead", "rater"]
SETUP = "setup"  # who invites the first admin
_SESSION = Prepared(
    select(users, sessions.c.created_s, sessions.c.seen_s)
    .join(sessions, sessions.c.user_id == users.c.id)
    .where(
        sessions.c.token_hash == bindparam("token"),
        sessions.c.seen_s > bindparam("seen"),
        sessions.c.created_s > bindparam("created"),
        users.c.disabled_at.is_(None),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Somebody with an account."""

    id: str
    email: str
    name: str
    is_admin: bool
    disabled: bool
    created_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A person who is signed in; times are seconds since 1970."""

    person: Person
    created_s: float
    seen_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Invite:
    """An invitation that waits; whoever has its token may use it once."""

    id: str  # hash of its token
    project_id: str | None  # None: to the installation
    role: InviteRole
    created_by: str
    expires_s: float


def token_hash(token: str) -> str:
    """Return what is kept of a token: 64 hex digits of SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()


def clean_email(email: str) -> str:
    """Return an e-mail address as it is compared: without blanks around it, in lower case."""
    return email.strip().lower()


def nobody_yet(db: Connection) -> bool:
    """Return whether no account was ever made."""
    return db.scalar(select(func.count()).select_from(users)) == 0


def people(db: Connection) -> list[Person]:
    """Return everybody with an account, by name."""
    return [_person(row) for row in db.execute(select(users).order_by(users.c.name, users.c.id))]


def person(db: Connection, user_id: str) -> Person:
    """Return a person.

    Raises:
        StoreError: no such account.
    """
    row = db.execute(select(users).where(users.c.id == user_id)).one_or_none()
    if row is None:
        raise StoreError(f"person {user_id}: is not there.")
    return _person(row)


def account(db: Connection, email: str) -> tuple[Person, str] | None:
    """Return the person with this e-mail address and the hash of their password, None without."""
    row = db.execute(select(users).where(users.c.email == clean_email(email))).one_or_none()
    return None if row is None else (_person(row), row.password_hash)


def add_person(
    db: Connection, *, email: str, name: str, password_hash: str, is_admin: bool = False
) -> str:
    """Make an account and return its id.

    Raises:
        StoreError: the e-mail address has an account already.
    """
    row = {
        "id": f"usr-{secrets.token_hex(16)}",
        "email": clean_email(email),
        "name": name.strip(),
        "password_hash": password_hash,
        "is_admin": is_admin,
        "created_at": now(),
    }
    try:
        with db.begin_nested():
            db.execute(insert(users).values(row))
    except IntegrityError as error:
        raise StoreError(
            "account: this e-mail address has one. Sign in, then open the invitation again."
        ) from error
    return str(row["id"])


def set_password(db: Connection, user_id: str, password_hash: str) -> None:
    """Let another password hold; every session of the person ends."""
    db.execute(update(users).where(users.c.id == user_id).values(password_hash=password_hash))
    end_sessions(db, user_id)


def disable(db: Connection, user_id: str) -> None:
    """Let a person sign in no more; every session ends at once, what they said stays.

    Raises:
        StoreError: no such account, or the last admin's.
    """
    whom = person(db, user_id)
    others = select(func.count()).select_from(users)
    others = others.where(users.c.is_admin, users.c.disabled_at.is_(None), users.c.id != user_id)
    if whom.is_admin and not db.scalar(others):
        raise StoreError("account: the last admin's. Make another admin first.")
    db.execute(update(users).where(users.c.id == user_id).values(disabled_at=now()))
    end_sessions(db, user_id)


def enable(db: Connection, user_id: str) -> None:
    """Let a person sign in again."""
    db.execute(update(users).where(users.c.id == user_id).values(disabled_at=None))


def open_session(db: Connection, user_id: str, *, now_s: float) -> str:
    """Sign a person in and return the session's token, which is shown this once."""
    token = secrets.token_urlsafe(32)
    row = {"token_hash": token_hash(token), "user_id": user_id}
    db.execute(insert(sessions).values(**row, created_s=now_s, seen_s=now_s))
    return token


def session(
    db: Connection, token: str, *, now_s: float, idle_s: float, whole_s: float
) -> Session | None:
    """Return who holds this token, None for a stale or unknown one, or a disabled person.

    Args:
        db: a connection.
        token: as the browser sent it.
        now_s: seconds since 1970.
        idle_s: longest time without a request.
        whole_s: longest time since the sign-in.
    """
    row = _SESSION.first(db, token=token_hash(token), seen=now_s - idle_s, created=now_s - whole_s)
    if row is None:
        return None
    return Session(person=_person(row), created_s=row.created_s, seen_s=row.seen_s)


def keep_session(db: Connection, token: str, *, now_s: float) -> None:
    """Write down that a session was used."""
    mine = sessions.c.token_hash == token_hash(token)
    db.execute(update(sessions).where(mine).values(seen_s=now_s))


def end_session(db: Connection, token: str) -> None:
    """Sign out."""
    db.execute(delete(sessions).where(sessions.c.token_hash == token_hash(token)))


def end_sessions(db: Connection, user_id: str) -> None:
    """Sign a person out everywhere; a link for a new password holds no more either."""
    db.execute(delete(sessions).where(sessions.c.user_id == user_id))
    db.execute(delete(resets).where(resets.c.user_id == user_id))


def make_reset(db: Connection, user_id: str, *, expires_s: float) -> str:
    """Return the token of a link for a new password; the one before it holds no more.

    Raises:
        StoreError: no such account, or a disabled one.
    """
    whom = person(db, user_id)
    if whom.disabled:
        raise StoreError(f"account {whom.email}: it is disabled. An admin enables it first.")
    db.execute(delete(resets).where(resets.c.user_id == user_id))
    token = secrets.token_urlsafe(32)
    row = {"user_id": user_id, "token_hash": token_hash(token), "expires_s": expires_s}
    db.execute(insert(resets).values(**row))
    return token


def find_reset(db: Connection, token: str, *, now_s: float) -> Person:
    """Return whose password a link may set.

    Raises:
        StoreError: unknown, used, replaced or expired.
    """
    held = resets.c.token_hash == token_hash(token), resets.c.expires_s > now_s
    user_id = db.scalar(select(resets.c.user_id).where(*held))
    if user_id is None:
        raise StoreError("link: it was used, replaced, or has expired. Ask for another.")
    return person(db, user_id)


def use_reset(db: Connection, token: str, password_hash: str, *, now_s: float) -> str:
    """Let another password hold, end every session of the person, and return who it is.

    Raises:
        StoreError: unknown, used, replaced or expired.
    """
    whom = find_reset(db, token, now_s=now_s)
    set_password(db, whom.id, password_hash)
    return whom.id


def invite(
    db: Connection,
    *,
    role: InviteRole,
    project_id: str | None,
    by: str,
    expires_s: float,
) -> str:
    """Invite somebody and return the token, which is shown this once.

    Raises:
        StoreError: an admin to a project, or anybody else to none.
    """
    if (role == "admin") != (project_id is None):
        raise StoreError(
            "invitation: admins belong to the installation, leads and raters to a project."
        )
    token = secrets.token_urlsafe(32)
    row = {"token_hash": token_hash(token), "project_id": project_id, "role": role}
    db.execute(insert(invites).values(**row, created_by=by, expires_s=expires_s))
    return token


def invite_first_admin(db: Connection, *, expires_s: float) -> str:
    """Return a fresh token for the first admin; the one before it holds no more."""
    db.execute(delete(invites).where(invites.c.created_by == SETUP))
    return invite(db, role="admin", project_id=None, by=SETUP, expires_s=expires_s)


def open_invites(db: Connection, *, now_s: float) -> list[Invite]:
    """Return the invitations nobody has used yet, the next to expire first."""
    waiting = invites.c.used_by.is_(None) & (invites.c.expires_s > now_s)
    rows = db.execute(select(invites).where(waiting).order_by(invites.c.expires_s)).all()
    return [_invite(row) for row in rows]


def find_invite(db: Connection, token: str, *, now_s: float) -> Invite:
    """Return the invitation that a token stands for.

    Raises:
        StoreError: unknown, used, withdrawn or expired.
    """
    query = select(invites).where(
        invites.c.token_hash == token_hash(token),
        invites.c.used_by.is_(None),
        invites.c.expires_s > now_s,
    )
    row = db.execute(query).one_or_none()
    if row is None:
        raise StoreError("invitation: it was used, withdrawn or has expired. Ask for another.")
    return _invite(row)


def use_invite(db: Connection, token: str, user_id: str, *, now_s: float) -> Invite:
    """Let a person in by an invitation, which holds no more after this.

    Raises:
        StoreError: unknown, used, withdrawn or expired; or they work in the project already.
    """
    found = find_invite(db, token, now_s=now_s)
    if found.project_id and member(db, found.project_id, user_id):
        raise StoreError("invitation: you work in this project already.")
    db.execute(update(invites).where(invites.c.token_hash == found.id).values(used_by=user_id))
    if found.project_id is None:
        db.execute(update(users).where(users.c.id == user_id).values(is_admin=True))
    else:
        role: Role = "lead" if found.role == "lead" else "rater"
        add_member(db, found.project_id, user_id, role, by=found.created_by)
    return found


def withdraw_invite(db: Connection, invite_id: str) -> None:
    """Let an invitation hold no more."""
    db.execute(
        delete(invites).where(invites.c.token_hash == invite_id, invites.c.used_by.is_(None))
    )


def begin_attempt(
    db: Connection, who: tuple[str, ...], *, now_s: float, window_s: float, most: int
) -> list[int] | None:
    """Count a try to sign in before it is made; None when too many were.

    Counting first means that tries sent side by side cannot pass together.

    Args:
        db: a connection that writes.
        who: what the try counts against, such as an account and an address.
        now_s: seconds since 1970.
        window_s: how long a try counts.
        most: tries that each of `who` has within the window.
    """
    db.execute(delete(login_attempts).where(login_attempts.c.at_s < now_s - window_s))
    count = select(func.count()).select_from(login_attempts)
    if any((db.scalar(count.where(login_attempts.c.who == one)) or 0) >= most for one in who):
        return None
    made = insert(login_attempts).returning(login_attempts.c.id)
    return [db.execute(made.values(who=one, at_s=now_s)).scalar_one() for one in who]


def forgive_attempt(db: Connection, attempt: list[int]) -> None:
    """Take a try back from the count: it was right."""
    db.execute(delete(login_attempts).where(login_attempts.c.id.in_(attempt)))


def _person(row: Row[Any]) -> Person:
    return Person(
        id=row.id,
        email=row.email,
        name=row.name,
        is_admin=row.is_admin,
        disabled=row.disabled_at is not None,
        created_at=row.created_at,
    )


def _invite(row: Row[Any]) -> Invite:
    return Invite(
        id=row.token_hash,
        project_id=row.project_id,
        role=row.role,
        created_by=row.created_by,
        expires_s=row.expires_s,
    )
