"""Keys of the project that the caller's own key opens. Only a key for everything may see them."""

import time
from typing import Annotated, Literal

from fastapi import Depends, Header
from pydantic import BaseModel, Field

from preftune.serving.api.access import Caller, require
from preftune.serving.api.bodies import Body, api_router
from preftune.serving.api.errors import ApiError
from preftune.serving.api.paging import Listed
from preftune.serving.auth import Store
from preftune.store import api_keys
from preftune.store.api_keys import (
    ALL,
    LAST_S,
    MOST_PER_MINUTE,
    REQUESTS_PER_MINUTE,
    ApiKey,
    UnknownKeyError,
)

router = api_router("keys")
Owner = Annotated[Caller, Depends(require(ALL))]
NoRepeat = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Refused: a secret is kept nowhere, so no answer could be given again.",
    ),
]


class KeySent(Body):
    """What a new key is for."""

    name: str = Field(min_length=1, max_length=200)
    scopes: list[str] = Field(default_factory=lambda: [ALL], min_length=1, max_length=20)
    expires_at: int | None = Field(default=None, ge=0, le=LAST_S, description="Unix seconds.")
    requests_per_minute: int = Field(default=REQUESTS_PER_MINUTE, ge=1, le=MOST_PER_MINUTE)


class KeyObject(BaseModel):
    """A key without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    shown: str = Field(description="Its first characters.")
    scopes: list[str]
    requests_per_minute: int
    created_at: int
    expires_at: int | None
    last_used_at: int | None


class NewKeyObject(KeyObject):
    """A key that was made just now."""

    key: str = Field(description="The secret. It is shown this once.")


class RevokedKey(BaseModel):
    """What is left of a key."""

    id: str
    object: Literal["api_key"] = "api_key"
    deleted: Literal[True] = True


@router.post("/v1/keys")
def create_key(store: Store, caller: Owner, sent: KeySent, repeat: NoRepeat = None) -> NewKeyObject:
    """Make a key; its secret is in this answer and nowhere else."""
    if repeat is not None:
        what = "Invalid 'Idempotency-Key': a secret is shown once, never again. Leave it out."
        raise ApiError(400, what, param="Idempotency-Key", code="invalid_value")
    made, secret = store.write(
        lambda db: api_keys.make_key(
            db,
            project_id=caller.project_id,
            name=sent.name,
            scopes=sent.scopes,
            by=caller.key_id,
            expires_s=sent.expires_at,
            requests_per_minute=sent.requests_per_minute,
            now_s=time.time(),
        )
    )
    return NewKeyObject(**_shown(made).model_dump(), key=secret)


@router.get("/v1/keys")
def list_keys(store: Store, caller: Owner) -> Listed[KeyObject]:
    """List the keys of the project, the newest first."""
    with store.read() as db:
        found = api_keys.keys_of(db, caller.project_id)
    return Listed(data=[_shown(key) for key in found], has_more=False)


@router.delete("/v1/keys/{key_id}")
def revoke_key(store: Store, caller: Owner, key_id: str) -> RevokedKey:
    """Let a key open nothing from now on."""
    try:
        store.write(lambda db: api_keys.revoke(db, caller.project_id, key_id, now_s=time.time()))
    except UnknownKeyError as error:
        raise ApiError(404, str(error), param="key_id") from error
    return RevokedKey(id=key_id)


def _shown(key: ApiKey) -> KeyObject:
    return KeyObject(
        id=key.id,
        name=key.name,
        shown=key.shown,
        scopes=list(key.scopes),
        requests_per_minute=key.requests_per_minute,
        created_at=int(key.created_s),
        expires_at=None if key.expires_s is None else int(key.expires_s),
        last_used_at=None if key.used_s is None else int(key.used_s),
    )
