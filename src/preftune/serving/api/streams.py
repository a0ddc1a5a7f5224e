"""From the backend's records to what a client reads: all at once, or event by event.

A request whose client has gone is given up at once, and its replies' places are free again.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from preftune.serving.api.errors import ApiError
from preftune.serving.backend import Backend, Question
from preftune.wire.chat import Answer, Begun, Choice, Done, Echo

T = TypeVar("T")
Placed = tuple[int, Answer]
"""The number of a question, and a record of its answer."""

STOP = b"data: [DONE]\n\n"
EVENTS = "text/event-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """All that was answered to one question."""

    begun: Begun
    echo: Echo | None
    choices: tuple[Choice, ...]
    done: Done


async def merged(backend: Backend, questions: Sequence[Question]) -> AsyncGenerator[Placed, None]:
    """Yield the records of all answers as they come, each with the number of its question.

    Raises:
        ApiError: one of the questions has no answer; the others are given up.
    """
    queue: asyncio.Queue[tuple[int, Answer | None]] = asyncio.Queue()

    async def ask(place: int, question: Question) -> None:
        try:
            async with aclosing(backend.answers(question)) as answers:
                async for record in answers:
                    queue.put_nowait((place, record))
        finally:
            queue.put_nowait((place, None))

    tasks = [asyncio.create_task(ask(place, one)) for place, one in enumerate(questions)]
    try:
        for _ in tasks:
            while True:
                place, record = await queue.get()
                if record is None:
                    break
                yield place, record
            await tasks[place]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def begun(
    request: Request, backend: Backend, questions: Sequence[Question]
) -> tuple[list[Begun], AsyncGenerator[Placed, None]]:
    """Return how each answer begins, and all that follows; what is refused is refused here.

    Raises:
        ApiError: a question has no answer.
        ClientDisconnect: nobody waits for it any more.
    """
    records = merged(backend, questions)
    first: dict[int, Begun] = {}
    early: list[Placed] = []

    async def wait() -> None:
        while len(first) < len(questions):
            place, record = await anext(records)
            if isinstance(record, Begun):
                first[place] = record
            else:
                early.append((place, record))

    async def rest() -> AsyncGenerator[Placed, None]:
        async with aclosing(records):
            for one in early:
                yield one
            async for one in records:
                yield one

    try:
        await unless_gone(request, wait())
    except BaseException:
        await records.aclose()
        raise
    return [first[place] for place in range(len(questions))], rest()


async def whole(request: Request, backend: Backend, questions: Sequence[Question]) -> list[Whole]:
    """Return the answer to each question, in their order.

    Raises:
        ApiError: one of them has none.
        ClientDisconnect: nobody waits for them any more.
    """
    starts, records = await begun(request, backend, questions)
    found: list[list[Answer]] = [[] for _ in questions]

    async def gather() -> None:
        async with aclosing(records):
            async for place, record in records:
                found[place].append(record)

    await unless_gone(request, gather())
    return [_whole(start, records) for start, records in zip(starts, found, strict=True)]


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work, given up as soon as the client has gone.

    Raises:
        ClientDisconnect: it has.
    """
    doing, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events, each one JSON object; `[DONE]` at the end, or one that is an error."""

    media_type = EVENTS

    def __init__(self, events: AsyncGenerator[BaseModel, None]) -> None:
        self._events = _lines(events)
        super().__init__(self._events, headers={"x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; whatever ends it, what makes them is ended too."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _lines(events: AsyncGenerator[BaseModel, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            async for event in events:
                yield _line(event.model_dump_json(exclude_unset=True).encode())
        except ApiError as error:
            yield _line(bytes(error.answer().body))
        else:
            yield STOP


def _line(body: bytes) -> bytes:
    return b"data: %s\n\n" % body


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _whole(start: Begun, records: list[Answer]) -> Whole:
    """Return the records in their places; the backend has checked that the last is `Done`."""
    choices = [record for record in records if isinstance(record, Choice)]
    return Whole(
        begun=start,
        echo=next((record for record in records if isinstance(record, Echo)), None),
        choices=tuple(sorted(choices, key=lambda choice: choice.index)),
        done=next(record for record in records if isinstance(record, Done)),
    )
