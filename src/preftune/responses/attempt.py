"""One attempt to get one answer, with one deadline and one size; what went wrong is a value."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2

from preftune.errors import DataError
from preftune.responses.chat_client import ChatAnswer
from preftune.responses.chat_wire import FilteredError, decode_answer, refusal_text, shown
from preftune.responses.retry import retry_after_s

TOO_MANY = 429
FOR_EVERYBODY = {401, 402, 404}  # wrong key, no credit, no such model: the next one fails as well
MALFORMED = {400, 422}  # a parameter the server does not know, or a prompt that is too long


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Why an attempt gave no answer, and what that means for the next one."""

    reason: str
    again: bool = True  # may come right if asked again
    asked_wait_s: float | None = None  # what the server wants waited
    free: bool = False  # surely not paid for
    counts: bool = True  # a sign that the server is ill
    ends_run: bool = False  # nothing else can be had either
    at_once: bool = False  # what was asked is changed: nothing to wait for, nothing to count
    refusal: str = ""  # what a server that refused the request said


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    body: bytes
    retry_after: str | None = None


async def post(
    http: httpx2.AsyncClient, request: httpx2.Request, *, timeout_s: float, most_bytes: int
) -> Reply | Trouble:
    """Return the whole answer, or what came in its way: late, cut, too large, compressed."""
    try:
        async with asyncio.timeout(timeout_s):
            response = await http.send(request, stream=True)
            try:
                return await _read(response, most_bytes)
            finally:
                await response.aclose()
    except (TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout):
        return Trouble(reason=f"no whole answer in {timeout_s:g} s")
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        return Trouble(reason=f"cannot connect ({shown(str(error)) or 'too slow'})", free=True)
    except httpx2.HTTPError as error:
        return Trouble(reason=f"connection cut ({shown(str(error)) or type(error).__name__})")


async def _read(response: httpx2.Response, most_bytes: int) -> Reply | Trouble:
    if response.headers.get("content-encoding", "identity") != "identity":
        return Trouble(reason="a compressed answer that was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > most_bytes:
            return Trouble(reason=f"an answer of more than {most_bytes} bytes")
    return Reply(
        status=response.status_code,
        body=bytes(body),
        retry_after=response.headers.get("retry-after"),
    )


def understand(reply: Reply, key: str) -> ChatAnswer | Trouble:
    """Return the answer in a reply, or what the reply says is wrong."""
    if reply.status == 200:
        try:
            return decode_answer(reply.body, key)
        except FilteredError as error:
            return Trouble(reason=str(error), again=False, counts=False)
        except DataError as error:
            return Trouble(reason=str(error))
    said = refusal_text(reply.body)
    reason = f"HTTP {reply.status}: {said}" if said else f"HTTP {reply.status}"
    if reply.status == TOO_MANY or reply.status >= 500:
        return Trouble(
            reason=reason,
            free=True,
            asked_wait_s=retry_after_s(reply.retry_after, datetime.now(UTC)),
            counts=reply.status != TOO_MANY,
        )
    if 300 <= reply.status < 400:
        reason = f"HTTP {reply.status}: it points elsewhere, which is not followed"
        return Trouble(reason=reason, again=False, free=True, ends_run=True)
    return Trouble(
        reason=reason,
        again=False,
        free=True,
        ends_run=reply.status in FOR_EVERYBODY,
        refusal=said if reply.status in MALFORMED else "",
    )
