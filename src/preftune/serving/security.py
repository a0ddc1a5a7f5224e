"""What holds for every request, whatever route it takes: headers, forgery checks, log, last resort.

Two layers around the whole application, so that a new route cannot forget them. `Shield` gives each
answer its headers and an id, writes the log and turns a crash into an answer that says nothing.
`Guard` refuses what no page of ours would send.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterator

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preftune.serving.api.errors import is_api
from preftune.serving.meters import Meters
from preftune.serving.problems import problem
from preftune.serving.settings import ServerSettings
from preftune.store.events import now

SAFE = ("GET", "HEAD", "OPTIONS")
PROBES = ("/healthz", "/readyz", "/metrics")  # asked by address, whatever name the server has
OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
CSRF_HEADER = "X-CSRF-Token"
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
HSTS = "max-age=31536000"  # one year

access_log = logging.getLogger("preftune.access")
logger = logging.getLogger("preftune.errors")


def cookie_name(settings: ServerSettings) -> str:
    """Return the name of the session cookie.

    Under TLS it has the `__Host-` prefix: browsers then take it from this host alone, and only with
    `Secure`. Over plain http they would refuse such a cookie, so there it goes without.
    """
    return "__Host-preftune" if settings.tls else "preftune"


def csrf_token(token: str) -> str:
    """Return what our pages send along with a request of the session that has this token.

    Derived from the cookie's secret by SHA-256, so nobody without the cookie can make it, and it
    does not tell the cookie; a visitor who is not signed in yet has one as well.
    """
    return hashlib.sha256(f"csrf:{token}".encode()).hexdigest()


def session_token(scope: Scope, settings: ServerSettings) -> str:
    """Return the token in the session cookie, empty without one."""
    return cookie_parser(Headers(scope=scope).get("cookie", "")).get(cookie_name(settings), "")


class Guard:
    """Refuses requests that no page of ours would send: 400, 403 or 415."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        refused = next(self.refusals(scope), None) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
        else:
            status, code, message = refused
            answer = problem(Request(scope), status, message, code=code)
            await answer(scope, receive, send)

    def refusals(self, scope: Scope) -> Iterator[tuple[int, str, str]]:
        """Yield status, code and message of each reason to refuse a request; none: it may pass.

        Every method but GET, HEAD and OPTIONS needs our own origin, JSON and the page's token.
        Programs come with a key instead, which no page elsewhere knows: cookies open nothing there.
        """
        if _for_programs(scope["path"]):
            if _hides_something(scope):
                yield 400, "address", "The address holds control characters."
            return
        headers = Headers(scope=scope)
        origin = self.settings.origin(headers.get("host", ""))
        if origin is None:
            yield 400, "host", "This server does not go by that name."
        if _hides_something(scope):
            yield 400, "address", "The address holds control characters."
        if any(name in headers for name in OVERRIDES) or b"_method=" in scope["query_string"]:
            yield 403, "method_override", "A request cannot pretend another method."
        if scope["method"] in SAFE:
            return
        if not _from_our_page(headers, origin):
            yield 403, "origin", "This was sent from another site."
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            yield 415, "content_type", "Send JSON."
        wanted = csrf_token(session_token(scope, self.settings))
        if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), wanted.encode()):
            yield 403, "csrf", "This page is out of date. Reload it."


class Shield:
    """The outermost layer: an id, headers, a log line, and an answer even after a crash."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        headers = {**HEADERS, "Strict-Transport-Security": HSTS} if settings.tls else HEADERS
        self.headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
        self.names = {name for name, _ in self.headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens inside."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = secrets.token_hex(8)
        began = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [(k, v) for k, v in message["headers"] if k not in self.names]
                if all(name != b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-store"))
                given.append((b"x-request-id", state["request_id"].encode()))
                message["headers"] = given + self.headers
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("request %s failed", state["request_id"])
            if not status:
                await problem(Request(scope), 500)(scope, receive, send_with_headers)
        finally:
            took_s = time.monotonic() - began
            _count(scope, status, took_s)
            _log(scope, status, 1000 * took_s)


def _for_programs(path: str) -> bool:
    """Whether programs alone ask there: with a secret of theirs, or for what is no secret."""
    return is_api(path) or path.startswith("/internal/") or path in PROBES


def _from_our_page(headers: Headers, origin: str | None) -> bool:
    """Whether the browser says that a page of ours sent this; one that says nothing did not."""
    site, sender = headers.get("sec-fetch-site"), headers.get("origin")
    if sender is None and site is None:
        return False
    return site in (None, "same-origin") and sender in (None, origin)


def _hides_something(scope: Scope) -> bool:
    address = scope["path"] + scope["query_string"].decode("latin-1")
    return not address.isprintable() or "%00" in address


def _count(scope: Scope, status: int, took_s: float) -> None:
    """Add a request to the figures, where the server keeps any."""
    meters: Meters | None = getattr(scope["app"].state, "meters", None)
    if meters is not None:
        route: str | None = getattr(scope.get("route"), "path", None)
        meters.saw(route, scope["method"], status, took_s)


def _log(scope: Scope, status: int, took_ms: float) -> None:
    """Write one line of JSON; neither bodies nor queries are in it, and no secret is in a path."""
    state, client = scope["state"], scope.get("client")
    person = state.get("person")
    line = {
        "at": now(),
        "request": state["request_id"],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(took_ms, 1),
        "person": person.id if person else None,
        "address": client[0] if client else None,
    }
    access_log.info(msgspec.json.encode(line).decode())
