"""Chat models behind an OpenAI-compatible URL, many requests at a time, never more than allowed.

The server is a stranger: slow, cut, endless, redirecting, lying. An attempt has one deadline and
one size; what may come right is asked again, a bounded number of times.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue

import httpx2

from preftune.errors import DataError, SettingsError
from preftune.responses.attempt import Trouble, understand
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.responses.chat_wire import Dialect, encode_request
from preftune.responses.remote import Failed, HttpSettings, Remote, loop_in_thread
from preftune.responses.retry import Breaker
from preftune.responses.spending import Bill
from preftune.responses.url_guard import Resolve, system_resolve
from preftune.settings import checked

Outcome = ChatAnswer | ChatFailure
CHAT = "/chat/completions"
MOST_NAMES = 3  # names of one server that are told to the user


class HttpChatClient:
    """A `ChatClient` over HTTP; `notes` says once each what the user should know of the server."""

    def __init__(
        self,
        settings: HttpSettings,
        model: str,
        *,
        bill: Bill | None = None,
        resolve: Resolve = system_resolve,
    ) -> None:
        """Take the server, the model's name there, and where to book the cost; nothing is sent.

        Raises:
            SettingsError: a setting out of range, a URL that may not be asked, no key at the place
                named, no model.
        """
        self.settings = checked(settings)
        if not model.strip():
            raise SettingsError("model: no name. Give the name the server knows it by.")
        self._remote = Remote(self.settings, resolve=resolve)
        self.model, self.bill = model, bill
        self.notes: list[str] = []
        self._dialect = Dialect()
        self._served: set[str] = {model}

    @property
    def name(self) -> str:
        """Return `model@host`, with the port unless it is the usual one."""
        return f"{self.model}@{self._remote.endpoint.netloc}"

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[Outcome]:
        """Yield answers and failures as they come, each key exactly once.

        No more than `concurrency` requests are under way or not yet taken: a caller that saves
        each answer before it comes for the next can lose that many, never more. A caller that
        leaves early stops what is under way.

        Raises:
            DataError: two requests with one key.
        """
        if len({request.key for request in requests}) < len(requests):
            raise DataError("chat requests: two have one key. Give each its own.")
        outcomes: SimpleQueue[Outcome | Future[None]] = SimpleQueue()
        places = asyncio.Semaphore(self.settings.concurrency)
        with loop_in_thread() as loop:
            work = asyncio.run_coroutine_threadsafe(self._ask_all(requests, places, outcomes), loop)
            work.add_done_callback(outcomes.put)
            try:
                for _ in requests:
                    outcome = outcomes.get()
                    if isinstance(outcome, Future):  # ended before all was answered
                        raise _cause(outcome)
                    yield outcome
                    loop.call_soon_threadsafe(places.release)
            finally:
                work.cancel()

    async def _ask_all(
        self,
        requests: Sequence[ChatRequest],
        places: asyncio.Semaphore,
        outcomes: SimpleQueue[Outcome | Future[None]],
    ) -> None:
        breaker = Breaker(self.settings.breaker)
        http = self._remote.connections()

        async def ask_one(request: ChatRequest) -> None:
            outcomes.put(await self._ask_one(http, request, breaker))

        try:
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    await places.acquire()
                    group.create_task(ask_one(request))
        finally:
            await asyncio.shield(http.aclose())  # goes on when the work is cancelled meanwhile

    async def _ask_one(
        self, http: httpx2.AsyncClient, request: ChatRequest, breaker: Breaker
    ) -> Outcome:
        """Return the answer, or why there is none after all attempts."""

        async def attempt(number: int) -> ChatAnswer | Trouble:
            dialect = self._dialect
            got = await self._attempt(http, request, number, dialect)
            refusal = got.refusal if isinstance(got, Trouble) else ""
            if isinstance(got, ChatAnswer) or dialect.after(refusal) == dialect:
                return got
            self._dialect = self._dialect.after(refusal)
            return replace(got, at_once=True)

        got = await self._remote.ask(attempt, breaker)
        return ChatFailure(key=request.key, reason=got.reason) if isinstance(got, Failed) else got

    async def _attempt(
        self, http: httpx2.AsyncClient, request: ChatRequest, attempt: int, dialect: Dialect
    ) -> ChatAnswer | Trouble:
        """Book, ask, settle. What may have been paid without an answer stays booked."""
        if self.bill is None:
            return await self._exchange(http, request, attempt, dialect)
        booking = self.bill.book(request)
        if booking is None:
            return Trouble(reason="the cost cap is reached", again=False, ends_run=True)
        got = await self._exchange(http, request, attempt, dialect)
        if isinstance(got, Trouble):
            if got.free:
                self.bill.settle(booking, 0, 0)
        elif got.prompt_tokens or got.completion_tokens:
            self.bill.settle(booking, got.prompt_tokens, got.completion_tokens)
        else:
            self._note("tells no counts of tokens; answers are booked at the estimate")
        return got

    async def _exchange(
        self, http: httpx2.AsyncClient, request: ChatRequest, attempt: int, dialect: Dialect
    ) -> ChatAnswer | Trouble:
        content = encode_request(request, self.model, dialect)
        reply = await self._remote.post(http, CHAT, content, attempt)
        if isinstance(reply, Trouble):
            return reply
        got = understand(reply, request.key)
        if isinstance(got, ChatAnswer):
            self._look(request, got, dialect)
        return got

    def _look(self, request: ChatRequest, answer: ChatAnswer, dialect: Dialect) -> None:
        """Note what the server left out, and under which name it answers."""
        if request.seed is not None and not dialect.seed:
            self._note("takes no seed: the same draw cannot be had twice")
        if request.top_logprobs and not answer.logprobs:
            self._note("gives no log-probabilities")
        if answer.model and answer.model not in self._served and len(self._served) <= MOST_NAMES:
            self._served.add(answer.model)
            self._note(f"answers under the name {answer.model}")

    def _note(self, said: str) -> None:
        note = f"{self.name} {said}"
        if note not in self.notes:
            self.notes.append(note)


def _cause(work: Future[None]) -> BaseException:
    """Return what stopped the work, out of the groups that tasks put it in."""
    error: BaseException = work.exception() or RuntimeError("ended before all was answered")
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
