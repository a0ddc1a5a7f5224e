"""Chat models behind an OpenAI-compatible URL, many requests at a time, never more than allowed.

The server is a stranger: slow, cut, endless, redirecting, lying. An attempt has one deadline and
one size; what may come right is asked again, a bounded number of times.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from random import Random
from threading import Thread
from typing import Annotated

import httpx2
from msgspec import Meta

from preftune.errors import DataError, SettingsError
from preftune.responses.attempt import Trouble, post, understand
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.responses.chat_wire import Dialect, encode_request
from preftune.responses.retry import Breaker, wait_s
from preftune.responses.secret import read_secret
from preftune.responses.spending import Bill
from preftune.responses.url_guard import Resolve, guard, system_resolve
from preftune.settings import checked

Outcome = ChatAnswer | ChatFailure
CHAT = "/chat/completions"
MOST_NAMES = 3  # names of one server that are told to the user


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpSettings:
    """Where chat models are, and how patiently they are asked."""

    url: Annotated[str, Meta(description="Address of the API, such as https://host/v1.")]
    allow_urls: Annotated[
        tuple[str, ...], Meta(description="URLs that may be http, or not on the open internet.")
    ] = ()
    key_env: Annotated[
        str, Meta(description="Name of the environment variable that holds the key.")
    ] = ""
    key_file: Annotated[
        Path | None, Meta(description="File that holds the key and nothing else.")
    ] = None
    concurrency: Annotated[
        int, Meta(ge=1, le=1024, description="Most requests under way at once.")
    ] = 8
    timeout_s: Annotated[
        float, Meta(gt=0, description="Longest time for one attempt, from first to last byte.")
    ] = 30.0
    attempts: Annotated[int, Meta(ge=1, description="Most attempts for one answer.")] = 6
    backoff_s: Annotated[
        float, Meta(ge=0, description="Longest wait after a first failure; then twice that, …")
    ] = 0.5
    longest_wait_s: Annotated[
        float, Meta(ge=0, description="Longest wait; a server that asks for more is given up.")
    ] = 60.0
    breaker: Annotated[
        int, Meta(ge=1, description="Failures with no success between them that end the run.")
    ] = 20
    body_bytes: Annotated[
        int, Meta(ge=1024, description="Largest answer that is read, in bytes.")
    ] = 4 * 2**20


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
        self.model, self.bill = model, bill
        self.endpoint = guard(settings.url, allow=settings.allow_urls, resolve=resolve)
        self.notes: list[str] = []
        self._secret = read_secret(settings.key_env, settings.key_file)
        self._verify = self.endpoint.scheme == "https" and httpx2.create_ssl_context()
        self._dialect = Dialect()
        self._served: set[str] = {model}
        self._random = Random()

    @property
    def name(self) -> str:
        """Return `model@host`, with the port unless it is the usual one."""
        return f"{self.model}@{self.endpoint.netloc}"

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
        with _loop_in_thread() as loop:
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
        http = self._connections()

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
        reason = ""
        for attempt in range(self.settings.attempts):
            if breaker.reason:
                return ChatFailure(key=request.key, reason=f"not asked: {breaker.reason}")
            dialect = self._dialect
            got = await self._attempt(http, request, attempt, dialect)
            if isinstance(got, ChatAnswer):
                breaker.succeeded()
                return got
            reason = f"{got.reason} (attempt {attempt + 1})"
            if got.refusal and dialect.after(got.refusal) != dialect:
                self._dialect = self._dialect.after(got.refusal)
                continue
            _tell(breaker, got)
            wait = self._wait_s(got, attempt)
            if not got.again or wait is None:
                break
            await asyncio.sleep(wait)
        return ChatFailure(key=request.key, reason=reason)

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
        endpoint = self.endpoint
        asked = http.build_request(
            "POST",
            endpoint.pinned(_chat_path(endpoint.path), attempt),
            content=encode_request(request, self.model, dialect),
            headers={"Host": endpoint.netloc, **self._authorization()},
            extensions={"sni_hostname": endpoint.host},
        )
        s = self.settings
        reply = await post(http, asked, timeout_s=s.timeout_s, most_bytes=s.body_bytes)
        if isinstance(reply, Trouble):
            return reply
        body = self._secret.hide_in(reply.body) if self._secret else reply.body
        got = understand(replace(reply, body=body), request.key)
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

    def _wait_s(self, trouble: Trouble, attempt: int) -> float | None:
        """Return how long to wait for the next attempt; None when there is none."""
        s = self.settings
        asked_s = trouble.asked_wait_s
        if attempt + 1 >= s.attempts or (asked_s is not None and asked_s > s.longest_wait_s):
            return None
        return wait_s(
            attempt,
            first_s=s.backoff_s,
            most_s=s.longest_wait_s,
            asked_s=asked_s,
            random=self._random,
        )

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secret.reveal()}"} if self._secret else {}

    def _connections(self) -> httpx2.AsyncClient:
        """Return a client that follows no redirect and uses no proxy of the environment.

        A proxy would connect to addresses of its own choice.
        """
        s = self.settings
        return httpx2.AsyncClient(
            verify=self._verify,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(s.timeout_s, connect=s.timeout_s / 2),
            limits=httpx2.Limits(
                max_connections=s.concurrency, max_keepalive_connections=s.concurrency
            ),
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "preftune",
            },
        )


def _tell(breaker: Breaker, trouble: Trouble) -> None:
    if trouble.ends_run:
        breaker.open(trouble.reason)
    elif trouble.counts:
        breaker.failed(trouble.reason)


def _chat_path(path: str) -> str:
    """Return the path to post to: `/v1` when the URL names none."""
    return path if path.endswith(CHAT) else f"{path or '/v1'}{CHAT}"


def _cause(work: Future[None]) -> BaseException:
    """Return what stopped the work, out of the groups that tasks put it in."""
    error: BaseException = work.exception() or RuntimeError("ended before all was answered")
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that runs in a thread of its own; its tasks end before the block does."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="chat client", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        if not sys.is_finalizing():  # then the thread runs no more, and waiting would never end
            asyncio.run_coroutine_threadsafe(_others_ended(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _others_ended() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.sleep(0)  # sockets close one turn after they are told to
