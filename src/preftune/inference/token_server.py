"""A server that takes and gives token ids: many questions at a time, asked again when it fails."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2
import msgspec

from preftune.errors import DataError
from preftune.responses.attempt import Trouble, understand
from preftune.responses.remote import Failed, HttpSettings, Remote, loop_in_thread
from preftune.responses.retry import Breaker
from preftune.responses.url_guard import Resolve, system_resolve

T = TypeVar("T")
OK = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Question(Generic[T]):
    """What is posted, and what reads the answer; a `DataError` of `read` is asked again."""

    path: str  # below the address of the API, such as /completions
    body: Mapping[str, Any]
    read: Callable[[bytes], T]


class TokenServer:
    """Posts to an OpenAI-compatible server under the guard, limits and patience of its settings."""

    def __init__(self, settings: HttpSettings, *, resolve: Resolve = system_resolve) -> None:
        """Take the server; nothing is sent.

        Raises:
            SettingsError: a setting out of range, a URL that may not be asked, no key where named.
        """
        self._remote = Remote(settings, resolve=resolve)

    @property
    def name(self) -> str:
        """Return the host, with the port unless it is the usual one."""
        return self._remote.endpoint.netloc

    def ask(self, questions: Sequence[Question[T]]) -> list[T | Failed]:
        """Return what was read of each answer, or why there is none, in the order given."""
        with loop_in_thread() as loop:  # the caller may have a loop of its own, as notebooks do
            work = asyncio.run_coroutine_threadsafe(self._ask_all(questions), loop)
            try:
                return work.result()
            finally:
                work.cancel()  # when the wait was interrupted

    async def _ask_all(self, questions: Sequence[Question[T]]) -> list[T | Failed]:
        breaker = Breaker(self._remote.settings.breaker)
        places = asyncio.Semaphore(self._remote.settings.concurrency)
        async with self._remote.connections() as http:

            async def one(question: Question[T]) -> T | Failed:
                async def attempt(number: int) -> T | Trouble:
                    return await self._attempt(http, question, number)

                async with places:
                    return await self._remote.ask(attempt, breaker)

            return list(await asyncio.gather(*map(one, questions)))

    async def _attempt(
        self, http: httpx2.AsyncClient, question: Question[T], attempt: int
    ) -> T | Trouble:
        content = msgspec.json.encode(question.body)
        reply = await self._remote.post(http, question.path, content, attempt)
        if isinstance(reply, Trouble):
            return reply
        if reply.status == OK:
            try:
                return question.read(reply.body)
            except DataError as error:
                return Trouble(reason=str(error))
        refused = understand(reply, "")
        return refused if isinstance(refused, Trouble) else Trouble(reason="no answer in tokens")
