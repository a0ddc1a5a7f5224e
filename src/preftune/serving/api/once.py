"""Requests under an `Idempotency-Key`: sent twice, made once, with the same answer.

A route takes `once: OnceKey` and ends with `return once.write(lambda db: …)`, which makes the thing
and returns what is shown of it.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Header
from pydantic import BaseModel
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from preftune.serving.api.access import identify
from preftune.serving.api.errors import ApiError
from preftune.store.database import Database
from preftune.store.idempotency import Answers, KeyReusedError, request_hash

REPLAYED = "idempotent-replayed"  # header of an answer that was given before
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,255}$",
        description="Sent again under the same key within a day, the request makes nothing new.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Once:
    """One request that makes something."""

    database: Database
    project_id: str
    key: str | None
    request: str  # hash of method, path and body

    def of(self, said: bytes) -> "Once":
        """Return the same, where the body is not JSON but says this."""
        return replace(self, request=hashlib.sha256(self.request.encode() + said).hexdigest())

    def replay(self) -> Response | None:
        """Return the answer given before, None where there is none: for work before the write.

        Raises:
            ApiError: 400, the key stands for another request.
        """
        if self.key is None:
            return None
        with _reuse_named(), self.database.read() as db:
            answer = self._answers(self.key).given(db)
        return None if answer is None else _answer(answer, again=True)

    def write(self, make: Callable[[Connection], BaseModel]) -> Response:
        """Make something in one write with its answer, and return the answer.

        Raises:
            ApiError: 400, the key stands for another request.
        """
        if self.key is None:
            return _answer(self.database.write(make).model_dump_json(), again=False)
        answers = self._answers(self.key)
        with _reuse_named():
            answer, new = self.database.write(
                lambda db: answers.once(db, lambda db: make(db).model_dump_json())
            )
        return _answer(answer, again=not new)

    def _answers(self, key: str) -> Answers:
        return Answers(project_id=self.project_id, key=key, request=self.request, now_s=time.time())


async def once_of(request: Request, key: Key = None) -> Once:
    """Return how to answer a request; the body counts where it is JSON."""
    caller = await identify(request)
    json = "json" in request.headers.get("content-type", "").lower()
    body = await request.body() if key is not None and json else b""
    return Once(
        database=request.app.state.database,
        project_id=caller.project_id,
        key=key,
        request=request_hash(request.method, request.url.path, body),
    )


OnceKey = Annotated[Once, Depends(once_of)]


@contextmanager
def _reuse_named() -> Iterator[None]:
    try:
        yield
    except KeyReusedError as error:
        raise ApiError(400, str(error), code="idempotency_key_reused") from error


def _answer(text: str, *, again: bool) -> Response:
    headers = {REPLAYED: "true"} if again else None
    return Response(text, headers=headers, media_type="application/json")
