"""Who asks: every route of the API names the scope it needs.

    @router.get("/v1/files")
    def list_files(caller: Annotated[Caller, Depends(require("files:read"))]) -> Page: ...

A key opens one project. What belongs to another is 404, like what is not there. Cookies count for
nothing here.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from preftune.serving.api.errors import ApiError
from preftune.serving.api.limits import Buckets
from preftune.store import api_keys
from preftune.store.api_keys import SCOPES, ApiKey
from preftune.store.database import Database

BEARER = HTTPBearer(auto_error=False, description="`Authorization: Bearer pft_…`")
AZURE = APIKeyHeader(name="api-key", auto_error=False, description="As clients of Azure send it.")
USED_EVERY_S = 60.0  # how often the use of a key is written down
LONGEST_KEY = 200  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Whose key it is, and what it may be used for."""

    project_id: str
    key_id: str
    scopes: tuple[str, ...]


async def identify(request: Request) -> Caller:
    """Return who asks, and count the request.

    Raises:
        ApiError: 401, no key or one that does not hold; 429, too many requests within a minute.
    """
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    database: Database = request.app.state.database
    key = await run_in_threadpool(_key_of, database, _secret(request), time.time())
    wait_s = _buckets(request).wait_s(key.id, key.requests_per_minute)
    if wait_s:
        what = f"This key may send {key.requests_per_minute} requests per minute."
        raise ApiError(
            429, f"{what} Wait a moment.", code="rate_limit_exceeded", retry_after_s=wait_s
        )
    caller = Caller(project_id=key.project_id, key_id=key.id, scopes=key.scopes)
    request.state.caller = caller
    return caller


def require(scope: str) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency of a route that needs this scope, such as `files:read`."""
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r}: is not known")

    async def caller(
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
        _azure: Annotated[str | None, Depends(AZURE)],
    ) -> Caller:
        found = await identify(request)
        if not api_keys.allows(found.scopes, scope):
            raise ApiError(
                403,
                f"This key lacks the scope '{scope}'. Use a key that was made with it.",
                code="missing_scope",
            )
        return found

    return caller


def _secret(request: Request) -> str:
    """Return the key in the headers; never one in a cookie or an address."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and secret.strip():
        return secret.strip()
    return request.headers.get("api-key", "").strip()


def _key_of(database: Database, secret: str, now_s: float) -> ApiKey:
    if not secret:
        raise _unauthorized("No API key was sent. Send 'Authorization: Bearer KEY'.")
    with database.read() as db:
        found = api_keys.key_of(db, secret[:LONGEST_KEY], now_s=now_s)
    if found is None:
        raise _unauthorized("This API key does not hold: unknown, revoked or expired.")
    if found.used_s is None or abs(now_s - found.used_s) > USED_EVERY_S:
        database.submit(lambda db: api_keys.used(db, found.id, now_s=now_s))
    return found


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def _buckets(request: Request) -> Buckets:
    state = request.app.state
    if not hasattr(state, "buckets"):
        state.buckets = Buckets()
    found: Buckets = state.buckets
    return found
