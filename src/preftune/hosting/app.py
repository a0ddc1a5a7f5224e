"""The engine behind HTTP on a Unix socket: the records of `wire/chat.py`, nothing else."""

import asyncio
from concurrent.futures import Future
from typing import TypeVar

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from preftune.hosting.engine import Engine, Ticket
from preftune.wire.chat import Ask, Failed, Score, Unload, encode_line, read_line

T = TypeVar("T", bound=Struct)
Chunk = tuple[bytes, bool]  # lines, and whether they are the last


def make_app(engine: Engine) -> Starlette:
    """Return the app of an engine that has been started."""

    async def generate(request: Request) -> Response | Answering:
        ask = _read(await request.body(), Ask)
        return _failed(ask) if isinstance(ask, Failed) else Answering(engine, ask)

    async def score(request: Request) -> Response:
        ask = _read(await request.body(), Score)
        return _failed(ask) if isinstance(ask, Failed) else await _answer(engine.score(ask))

    async def unload(request: Request) -> Response:
        ask = _read(await request.body(), Unload)
        if isinstance(ask, Failed):
            return _failed(ask)
        return await _answer(engine.unload(ask.folders))

    async def health(_request: Request) -> Response:
        return await _answer(engine.health())

    return Starlette(
        routes=[
            Route("/generate", generate, methods=["POST"]),
            Route("/score", score, methods=["POST"]),
            Route("/unload", unload, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
        ]
    )


class Answering:
    """The lines of one request; whoever hangs up ends it."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self.engine, self.ask = engine, ask

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines as they come."""
        chunks: asyncio.Queue[Chunk] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hand_over(lines: bytes, last: bool) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, (lines, last))

        ticket = Ticket(ask=self.ask, send=hand_over)
        self.engine.submit(ticket)
        tasks = [
            asyncio.create_task(_send_lines(chunks, send)),
            asyncio.create_task(_hung_up(receive)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.engine.drop(ticket)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _send_lines(chunks: "asyncio.Queue[Chunk]", send: Send) -> None:
    lines, last = await chunks.get()
    first = read_line(lines.split(b"\n", 1)[0])
    status = first.status if isinstance(first, Failed) else 200
    headers = [(b"content-type", b"application/x-ndjson")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    while not last:
        await send({"type": "http.response.body", "body": lines, "more_body": True})
        lines, last = await chunks.get()
    await send({"type": "http.response.body", "body": lines})


async def _hung_up(receive: Receive) -> None:
    """Return when the client has."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _read(body: bytes, kind: type[T]) -> T | Failed:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Failed(status=400, message=f"not a request: {error}")


async def _answer(found: "Future[T]") -> Response:
    answer = await asyncio.wrap_future(found)
    if isinstance(answer, Failed):
        return _failed(answer)
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _failed(failed: Failed) -> Response:
    return Response(encode_line(failed), failed.status, media_type="application/x-ndjson")
