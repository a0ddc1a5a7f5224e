"""How the server says no: a page for those who look, JSON for programs, the same words in both."""

import logging
from http import HTTPStatus
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from preftune.errors import PreftuneError, StoreError, StoreWriteError
from preftune.serving.api.errors import error_body, invalid, is_api
from preftune.serving.pages import render
from preftune.text import visible_page

logger = logging.getLogger("preftune.errors")

MESSAGES = {
    400: "The request cannot be read.",
    401: "Sign in first.",
    403: "This is not yours to do.",
    404: "There is nothing here.",
    405: "This cannot be done here.",
    409: "Somebody else was quicker. Reload the page.",
    413: "Too large. Send it in pieces.",
    415: "Send JSON.",
    422: "Something in it is missing or wrong.",
    429: "Too many tries. Wait a quarter of an hour.",
    500: "Something broke on the server. Whoever runs it finds the reason under this number.",
    507: "Nothing was saved: the store cannot be written. Try again later.",
}


def wants_page(request: Request) -> bool:
    """Return whether a person is looking: a browser going to an address, no script asking."""
    accepts = request.headers.get("accept", "")
    looking = request.method in ("GET", "HEAD") and "text/html" in accepts
    return looking and not is_api(request.scope["path"])


def problem(
    request: Request,
    status: int,
    message: str = "",
    *,
    code: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    """Return an answer that says no, with the request's id.

    JSON is `{"error": {"message", "type", "code", "request"}}`; of the API, OpenAI's object.

    Args:
        request: what is answered.
        status: of HTTP.
        message: one sentence for people; empty: the usual one of this status.
        code: a word for programs, such as csrf.
        headers: to add.
    """
    said = visible_page(message) or MESSAGES.get(status, MESSAGES[500 if status >= 500 else 400])
    said = said[:1].upper() + said[1:]
    number = request.state.request_id
    if wants_page(request):
        title = HTTPStatus(status).phrase
        text = render("error.html.jinja", status=status, title=title, message=said, number=number)
        return Response(text, status, headers, media_type="text/html")
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if is_api(request.scope["path"]):
        return JSONResponse(error_body(said, kind=kind, code=code or None), status, headers)
    error = {"message": said, "type": kind, "code": code or None, "request": number}
    return JSONResponse({"error": error}, status, headers)


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Answer what a route or the router refused; whoever must sign in first is sent there."""
    if error.status_code == 401 and wants_page(request):
        return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)
    usual = error.detail == HTTPStatus(error.status_code).phrase
    headers = dict(error.headers) if error.headers else None
    message = "" if usual or error.status_code >= 500 else error.detail
    return problem(request, error.status_code, message, headers=headers)


async def on_invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer a body or parameter of the wrong shape: says which, never repeats its value."""
    if is_api(request.scope["path"]):
        return invalid(error).answer()
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return problem(request, 422, f"{where or 'body'}: {first['msg']}.", code="invalid")


async def on_our_error(request: Request, error: PreftuneError) -> Response:
    """Answer an error raised on purpose: 409 from the store, else 422, in its own words.

    Under the API both are 400: its clients send again what gets 409. What a store that cannot
    write says goes to the log alone.
    """
    if isinstance(error, StoreWriteError):
        logger.error("request %s: %s", request.state.request_id, error)
        return problem(request, 507)
    refused = 409 if isinstance(error, StoreError) else 422
    return problem(request, 400 if is_api(request.scope["path"]) else refused, str(error))
