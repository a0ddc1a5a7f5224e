"""What a client sends: strict JSON, no unknown name, null like a field left out.

A module of routes has `router = api_router()`; its bodies are classes on `Body`.
"""

import difflib
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from preftune.lines import RefusedError, parse_json
from preftune.serving.api.access import identify
from preftune.serving.api.errors import REFUSALS, ApiError
from preftune.serving.api.limits import MIB, check_length, limits_of, too_large
from preftune.serving.web import Payload

_WORDS = {"wrong_type": "it is no JSON object", "blank_line": "it is blank"}
_SHOWN = 60  # characters of a name that is not known


class Body(Payload):
    """Body of a request: no unknown field, no other type than said; null is a field left out."""

    @model_validator(mode="before")
    @classmethod
    def only_known(cls, sent: Any) -> Any:
        """Drop nulls, and refuse unknown names with the nearest known one."""
        if not isinstance(sent, dict):
            return sent
        names = {field.alias or name for name, field in cls.model_fields.items()}
        said = {name: value for name, value in sent.items() if value is not None}
        for name in said.keys() - names:
            raise unknown_name(str(name), names)
        return said


def unknown_name(name: str, known: set[str]) -> PydanticCustomError:
    """Return the refusal of a name that is none of the known ones; says which is the nearest."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else f" Known are: {', '.join(sorted(known))}."
    told = {"name": name[:_SHOWN], "hint": hint}
    return PydanticCustomError("unknown_field", "Unknown parameter: '{name}'.{hint}", told)


class ApiRequest(Request):
    """A request whose body is bounded, and whose JSON is read strictly."""

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            ApiError: 413, more than the server reads at once.
        """
        if not hasattr(self, "_body"):
            most = limits_of(self).json_mib * MIB
            check_length(self, most)
            read = bytearray()
            async for piece in self.stream():
                read += piece
                if len(read) > most:
                    raise too_large(most)
            self._body = bytes(read)
        return self._body

    async def json(self) -> Any:
        """Return the body, a JSON object.

        Raises:
            ApiError: 400: broken, no object, a name given twice, NaN, half a character, too deep.
        """
        if not hasattr(self, "_json"):
            try:
                self._json = parse_json(await self.body())
            except RefusedError as refusal:
                what = _WORDS.get(refusal.problem.kind, refusal.problem.what)
                raise ApiError(400, f"The body cannot be read: {what}. Send JSON.") from refusal
        return self._json


class ApiRoute(APIRoute):
    """A route of the API: asks for the key before it reads anything else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def asked(request: Request) -> Response:
            await identify(request)
            try:
                return await answer(ApiRequest(request.scope, request.receive))
            except ClientDisconnect as error:
                raise ApiError(400, "The request broke off before its end.") from error

        return asked


def api_router(tag: str | None = None) -> APIRouter:
    """Return an empty router for routes under /v1; their paths are written out whole."""
    tags: list[str | Enum] | None = None if tag is None else [tag]
    return APIRouter(route_class=ApiRoute, responses=REFUSALS, tags=tags)
