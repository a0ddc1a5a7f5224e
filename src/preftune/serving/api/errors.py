"""How the API says no: OpenAI's error object, always with all four keys."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from preftune.text import visible_page

_NO_OBJECT = ("missing", "model_attributes_type", "model_type", "dict_type")  # kinds of errors
_CODES = {"missing": "missing_required_parameter", "unknown_field": "unknown_parameter"}


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "Refused; says what is wrong and what to do."},
    "5XX": {"model": ErrorAnswer, "description": "The server cannot, such as with a full disk."},
}
"""What every route may answer beside its own, for the OpenAPI document."""


class ApiError(HTTPException):
    """A request that is refused; becomes `{"error": {message, type, param, code}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Say what is wrong.

        Args:
            status: of HTTP. Clients retry 408, 409, 429 and all above 499: a refusal that will
                stand is none of these.
            message: what, where, and what to do.
            param: the field that is at fault.
            code: a word for programs.
            retry_after_s: for 429 and 503.
        """
        super().__init__(status, message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = retry_after_s

    def answer(self) -> JSONResponse:
        """Return the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        wait = self.retry_after_s
        headers = {"retry-after": f"{max(1, round(wait))}"} if wait is not None else None
        body = error_body(self.message, kind=kind, param=self.param, code=self.code)
        return JSONResponse(body, self.status, headers)


def is_api(path: str) -> bool:
    """Return whether a path is of the API, which speaks in OpenAI's words and takes keys alone."""
    return path == "/v1" or path.startswith("/v1/")


def error_body(
    message: str, *, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the error object; control characters of strangers' text are spelt out."""
    said = visible_page(message)
    return {"error": {"message": said, "type": kind, "param": param, "code": code}}


async def on_api_error(_request: Request, error: ApiError) -> JSONResponse:
    """Answer an `ApiError`."""
    return error.answer()


def invalid(error: RequestValidationError) -> ApiError:
    """Return the refusal of a body or parameter of the wrong shape; never repeats its value."""
    first: dict[str, Any] = error.errors()[0]
    kind, where = first["type"], _place(first["loc"])
    code = _CODES.get(kind, "invalid_value")
    if kind == "unknown_field":
        param = ".".join(filter(None, (where, first["ctx"]["name"])))
        return ApiError(400, first["msg"], param=param, code=code)
    if not where and kind in _NO_OBJECT:
        return ApiError(400, "The body is missing or is no JSON object. Send one, as JSON.")
    if kind == "missing":
        return ApiError(400, f"Missing required parameter: '{where}'.", param=where, code=code)
    said = f"Invalid '{where or 'body'}': {first['msg'].rstrip('.')}."
    return ApiError(400, said, param=where or None, code=code)


def _place(loc: Sequence[str | int]) -> str:
    """Return where in the request, as `method.dpo.hyperparameters.beta`."""
    return ".".join(str(part) for part in loc[1:])  # the first says body, query or path
