"""What the routes share: a page for a person, the shape of a request's body, the name of a try."""

import secrets
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from preftune.serving.pages import render
from preftune.serving.security import cookie_name, csrf_token, session_token
from preftune.serving.settings import ServerSettings

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
"""A short text that must not be empty, such as a name."""

Password = Annotated[str, Field(min_length=1, max_length=1000)]
Token = Annotated[str, Field(min_length=1, max_length=200)]

IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", pattern="^[A-Za-z0-9_-]{16,128}$")]
"""The client's own name for a request: sent twice under one key, it acts once."""


class Payload(BaseModel):
    """Body of a request: no unknown field, no other type than said, no NUL, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def no_nul(cls, value: Any) -> Any:
        """Refuse texts that PostgreSQL cannot hold."""
        if _holds_nul(value):
            raise ValueError("holds a NUL character")
        return value


class Nothing(Payload):
    """An empty body."""


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page of the folder `templates`, made for whoever asks.

    Beside the context, templates see `person` (None when not signed in), `path`, `has_jobs`, and
    `csrf`, which the base template puts into a `<meta>` for `static/api.js`.
    """
    settings: ServerSettings = request.app.state.settings
    token = session_token(request.scope, settings)
    sent = token or secrets.token_urlsafe(32)  # a visitor's: stands for nobody
    person = getattr(request.state, "person", None)
    path = request.url.path
    told = {"person": person, "path": path, "csrf": csrf_token(sent)}
    has_jobs = hasattr(request.app.state, "supervisor")  # `preftune serve`; `label` has none
    text = render(template, **told, has_jobs=has_jobs, **context)
    answer = HTMLResponse(text, status)
    if not token:
        set_session(answer, settings, sent)
    return answer


def set_session(answer: Response, settings: ServerSettings, token: str) -> None:
    """Let the browser keep a session's token, out of reach of scripts."""
    answer.set_cookie(
        cookie_name(settings),
        token,
        max_age=round(24 * 3600 * settings.session_days),
        secure=settings.tls,
        httponly=True,
        samesite="lax",
    )


def local_path(path: str, *, otherwise: str) -> str:
    """Return a path to go to if it leads to a page of ours."""
    ours = path.startswith("/") and not path.startswith("//")
    return path if ours and "\\" not in path and path.isprintable() else otherwise


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(_holds_nul(part) for part in value)
