"""Keys of the API: each opens one project, to the scopes it was made for.

A key is `pft_` and 256 random bits. It is shown once, when it is made; the store keeps its SHA-256,
so that a stolen copy of the store opens nothing.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, bindparam, insert, or_, select, update

from preftune.errors import StoreError
from preftune.store.job_schema import api_keys
from preftune.store.people import token_hash
from preftune.store.prepared import Prepared
from preftune.store.projects import project

PREFIX = "pft_"
SHOWN = 12  # characters of a key that lists show
ALL = "all"
KINDS = ("files", "jobs", "models", "chat", "graders")
SCOPES = (ALL, *(f"{kind}:{what}" for kind in KINDS for what in ("read", "write")))
REQUESTS_PER_MINUTE = 6000  # of a key that says nothing else
MOST_PER_MINUTE = 1_000_000
LAST_S = 253_402_300_799  # end of the year 9999, the last that a date can have

_KEY_OF = Prepared(
    select(api_keys).where(
        api_keys.c.secret_hash == bindparam("hash"),
        api_keys.c.revoked_s.is_(None),
        or_(api_keys.c.expires_s.is_(None), api_keys.c.expires_s > bindparam("now")),
    )
)


class UnknownKeyError(StoreError):
    """No such key in this project, or it was revoked before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key without its secret; times are seconds since 1970."""

    id: str  # key-…
    project_id: str
    name: str
    shown: str  # its first characters
    scopes: tuple[str, ...]
    requests_per_minute: int
    made_by: str
    created_s: float
    expires_s: float | None
    used_s: float | None
    revoked_s: float | None


def allows(scopes: Iterable[str], wanted: str) -> bool:
    """Return whether scopes include one; `all` is every one, and who may write may read."""
    having = set(scopes)
    kind, _, what = wanted.partition(":")
    return bool(having & {ALL, wanted}) or (what == "read" and f"{kind}:write" in having)


def make_key(
    db: Connection,
    *,
    project_id: str,
    name: str,
    scopes: Iterable[str] = (ALL,),
    by: str,
    expires_s: float | None = None,
    requests_per_minute: int = REQUESTS_PER_MINUTE,
    now_s: float,
) -> tuple[ApiKey, str]:
    """Make a key, and return it with its secret, which nobody can find out again.

    Raises:
        StoreError: no such project, no name, an unknown scope or none, no requests, or a time of
            expiry that has passed.
    """
    wanted = tuple(dict.fromkeys(scopes))
    _check(name, wanted, expires_s=expires_s, per_minute=requests_per_minute, now_s=now_s)
    secret = PREFIX + secrets.token_urlsafe(32)
    made = ApiKey(
        id=f"key-{secrets.token_hex(16)}",
        project_id=project(db, project_id).id,
        name=name.strip(),
        shown=secret[:SHOWN],
        scopes=wanted,
        requests_per_minute=requests_per_minute,
        made_by=by,
        created_s=now_s,
        expires_s=expires_s,
        used_s=None,
        revoked_s=None,
    )
    db.execute(insert(api_keys).values(**_row(made), secret_hash=token_hash(secret)))
    return made, secret


def key_of(db: Connection, secret: str, *, now_s: float) -> ApiKey | None:
    """Return the key with this secret; None where it is unknown, revoked or has expired."""
    row = _KEY_OF.first(db, hash=token_hash(secret), now=now_s)
    return None if row is None else _key(row)


def keys_of(db: Connection, project_id: str) -> list[ApiKey]:
    """Return the keys of a project that were not revoked, the newest first."""
    mine = and_(api_keys.c.project_id == project_id, api_keys.c.revoked_s.is_(None))
    order = (api_keys.c.created_s.desc(), api_keys.c.id)
    return [_key(row) for row in db.execute(select(api_keys).where(mine).order_by(*order))]


def revoke(db: Connection, project_id: str, key_id: str, *, now_s: float) -> None:
    """Let a key open nothing from now on.

    Raises:
        UnknownKeyError: the project has no such key.
    """
    mine = and_(
        api_keys.c.project_id == project_id,
        api_keys.c.id == key_id,
        api_keys.c.revoked_s.is_(None),
    )
    if not db.execute(update(api_keys).where(mine).values(revoked_s=now_s)).rowcount:
        raise UnknownKeyError(f"key {key_id}: is not there. List the keys of the project.")


def used(db: Connection, key_id: str, *, now_s: float) -> None:
    """Write down that a key was used."""
    db.execute(update(api_keys).where(api_keys.c.id == key_id).values(used_s=now_s))


def _check(
    name: str, scopes: tuple[str, ...], *, expires_s: float | None, per_minute: int, now_s: float
) -> None:
    if not name.strip():
        raise StoreError("key: it has no name. Say what it is for.")
    if not scopes or (unknown := [scope for scope in scopes if scope not in SCOPES]):
        what = f"scope {unknown[0]!r} is not known" if scopes else "it has no scopes"
        raise StoreError(f"key: {what}. Use some of: {', '.join(SCOPES)}.")
    if not 1 <= per_minute <= MOST_PER_MINUTE:
        raise StoreError(
            f"key: {per_minute} requests per minute. Allow 1 to {MOST_PER_MINUTE:,} of them."
        )
    if expires_s is None:
        return
    if expires_s <= now_s:
        raise StoreError("key: it would have expired already. Give a time that is to come.")
    if not expires_s <= LAST_S:  # not a number neither
        raise StoreError("key: it would expire after the year 9999. Give an earlier time, or none.")


def _row(key: ApiKey) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(key)
    return {**row, "scopes": msgspec.json.encode(key.scopes).decode()}


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        shown=row.shown,
        scopes=tuple(msgspec.json.decode(row.scopes)),
        requests_per_minute=row.requests_per_minute,
        made_by=row.made_by,
        created_s=row.created_s,
        expires_s=row.expires_s,
        used_s=row.used_s,
        revoked_s=row.revoked_s,
    )
