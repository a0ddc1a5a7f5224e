"""A server behind a URL: where it is, who asks, how patiently, and what one attempt brings."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Thread
from typing import Annotated, TypeVar

import httpx2
from msgspec import Meta

from preftune.responses.attempt import Reply, Trouble, post
from preftune.responses.retry import Breaker, wait_s
from preftune.responses.secret import read_secret
from preftune.responses.url_guard import Resolve, guard
from preftune.settings import checked

T = TypeVar("T")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """Why there is no answer, after every attempt that made sense."""

    reason: str


class Remote:
    """One server under guard, with the secret that it alone is sent."""

    def __init__(self, settings: HttpSettings, *, resolve: Resolve) -> None:
        """Take the server; nothing is sent.

        Raises:
            SettingsError: a setting out of range, a URL that may not be asked, no key where named.
        """
        self.settings = checked(settings)
        self.endpoint = guard(settings.url, allow=settings.allow_urls, resolve=resolve)
        self._secret = read_secret(settings.key_env, settings.key_file)
        self._verify = self.endpoint.scheme == "https" and httpx2.create_ssl_context()
        self._random = Random()

    def path(self, tail: str) -> str:
        """Return the path of what the API offers: below `/v1` when the URL names no path."""
        path = self.endpoint.path
        return path if path.endswith(tail) else f"{path or '/v1'}{tail}"

    async def post(
        self, http: httpx2.AsyncClient, tail: str, content: bytes, attempt: int
    ) -> Reply | Trouble:
        """Return one attempt's whole reply, the secret hidden in it, or what came in its way."""
        s, endpoint = self.settings, self.endpoint
        key = {"Authorization": f"Bearer {self._secret.reveal()}"} if self._secret else {}
        asked = http.build_request(
            "POST",
            endpoint.pinned(self.path(tail), attempt),
            content=content,
            headers={"Host": endpoint.netloc, **key},
            extensions={"sni_hostname": endpoint.host},
        )
        reply = await post(http, asked, timeout_s=s.timeout_s, most_bytes=s.body_bytes)
        if isinstance(reply, Trouble) or not self._secret:
            return reply
        return replace(reply, body=self._secret.hide_in(reply.body))

    async def ask(
        self, attempts: Callable[[int], Awaitable[T | Trouble]], breaker: Breaker
    ) -> T | Failed:
        """Return what one of the attempts brought, or why none did."""
        reason = ""
        for attempt in range(self.settings.attempts):
            if breaker.reason:
                return Failed(reason=f"not asked: {breaker.reason}")
            got = await attempts(attempt)
            if not isinstance(got, Trouble):
                breaker.succeeded()
                return got
            reason = f"{got.reason} (attempt {attempt + 1})"
            if got.at_once:
                continue
            if got.ends_run:
                breaker.open(got.reason)
            elif got.counts:
                breaker.failed(got.reason)
            wait = self._wait_s(got, attempt)
            if not got.again or wait is None:
                break
            await asyncio.sleep(wait)
        return Failed(reason=reason)

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

    def connections(self) -> httpx2.AsyncClient:
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


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
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
