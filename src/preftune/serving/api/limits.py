"""How much one request may bring, and how many a key may send."""

import time
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from preftune.serving.api.errors import ApiError, is_api

MIB = 1024 * 1024
FORM_BYTES = MIB  # of a form beside its file


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitSettings:
    """The largest requests of the API."""

    json_mib: Annotated[int, Meta(ge=1, description="Largest JSON body of the API.")] = 8
    file_mib: Annotated[int, Meta(ge=1, description="Largest file sent in one request.")] = 512
    part_mib: Annotated[int, Meta(ge=1, description="Largest part of an upload.")] = 64
    upload_gib: Annotated[int, Meta(ge=1, description="Largest file sent in parts.")] = 8
    upload_hours: Annotated[
        float, Meta(gt=0, description="How long an upload may take, its parts are kept so long.")
    ] = 1.0
    line_kib: Annotated[
        int, Meta(ge=1, le=16 * 1024, description="Longest line of a training file.")
    ] = 1024


def limits_of(request: Request) -> LimitSettings:
    """Return the limits of the server that was asked."""
    found: LimitSettings = getattr(request.app.state, "limits", None) or LimitSettings()
    return found


def check_length(request: Request, most: int) -> None:
    """Refuse a body that says it is too long, before any of it is read.

    Raises:
        ApiError: 413.
    """
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and int(said) > most:
        raise too_large(most)


def too_large(most: int) -> ApiError:
    """Return the refusal of a body of more than so many bytes."""
    shown = f"{most // MIB} MiB" if most >= MIB else f"{most} bytes"
    return ApiError(413, f"The request is larger than {shown}. Send less at once.")


class BodyLimit:
    """Refuses long bodies of pages; routes of the API say for themselves how much they take."""

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app, self.limited = app, RequestBodyLimitMiddleware(app, max_body_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        chosen = self.app if is_api(scope.get("path", "")) else self.limited
        await chosen(scope, receive, send)


class Buckets:
    """Counts the requests of each key: a minute's worth at once, and then as they flow in."""

    def __init__(self) -> None:
        self._filled: dict[str, tuple[float, float]] = {}  # key → tokens, when

    def wait_s(self, key_id: str, per_minute: int) -> float:
        """Take a request of a key from its bucket; return 0, or how long the bucket stays empty."""
        now_s = time.monotonic()
        left, then_s = self._filled.get(key_id, (float(per_minute), now_s))
        left = min(per_minute, left + (now_s - then_s) * per_minute / 60)
        allowed = left >= 1
        self._filled[key_id] = (left - allowed, now_s)
        return 0.0 if allowed else (1 - left) * 60 / per_minute
