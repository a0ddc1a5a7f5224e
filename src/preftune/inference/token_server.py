"""A server that takes and gives token ids: many questions at a time, asked again when it fails."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Generic, TypeVar

import httpx2
import msgspec

from preftune.errors import DataError
from preftune.responses.attempt import Trouble, post, understand
from preftune.responses.http_client import HttpSettings
from preftune.responses.retry import Breaker, wait_s
from preftune.responses.secret import read_secret
from preftune.responses.url_guard import Resolve, guard, system_resolve
from preftune.settings import checked

T = TypeVar("T")
OK = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """Why a question has no answer, after every attempt that made sense."""

    reason: str


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
        self.settings = checked(settings)
        self.endpoint = guard(settings.url, allow=settings.allow_urls, resolve=resolve)
        self._secret = read_secret(settings.key_env, settings.key_file)
        self._verify = self.endpoint.scheme == "https" and httpx2.create_ssl_context()
        self._random = Random()

    @property
    def name(self) -> str:
        """Return the host, with the port unless it is the usual one."""
        return self.endpoint.netloc

    def ask(self, questions: Sequence[Question[T]]) -> list[T | Failed]:
        """Return what was read of each answer, or why there is none, in the order given."""
        return asyncio.run(self._ask_all(questions))

    async def _ask_all(self, questions: Sequence[Question[T]]) -> list[T | Failed]:
        breaker = Breaker(self.settings.breaker)
        places = asyncio.Semaphore(self.settings.concurrency)
        async with self._connections() as http:

            async def one(question: Question[T]) -> T | Failed:
                async with places:
                    return await self._ask_one(http, question, breaker)

            return list(await asyncio.gather(*map(one, questions)))

    async def _ask_one(
        self, http: httpx2.AsyncClient, question: Question[T], breaker: Breaker
    ) -> T | Failed:
        reason = ""
        for attempt in range(self.settings.attempts):
            if breaker.reason:
                return Failed(reason=f"not asked: {breaker.reason}")
            got = await self._attempt(http, question, attempt)
            if not isinstance(got, Trouble):
                breaker.succeeded()
                return got
            reason = f"{got.reason} (attempt {attempt + 1})"
            if got.ends_run:
                breaker.open(got.reason)
            elif got.counts:
                breaker.failed(got.reason)
            wait = self._wait_s(got, attempt)
            if not got.again or wait is None:
                break
            await asyncio.sleep(wait)
        return Failed(reason=reason)

    async def _attempt(
        self, http: httpx2.AsyncClient, question: Question[T], attempt: int
    ) -> T | Trouble:
        s, endpoint = self.settings, self.endpoint
        key = {"Authorization": f"Bearer {self._secret.reveal()}"} if self._secret else {}
        asked = http.build_request(
            "POST",
            endpoint.pinned(f"{endpoint.path or '/v1'}{question.path}", attempt),
            content=msgspec.json.encode(question.body),
            headers={"Host": endpoint.netloc, **key},
            extensions={"sni_hostname": endpoint.host},
        )
        reply = await post(http, asked, timeout_s=s.timeout_s, most_bytes=s.body_bytes)
        if isinstance(reply, Trouble):
            return reply
        body = self._secret.hide_in(reply.body) if self._secret else reply.body
        if reply.status == OK:
            try:
                return question.read(body)
            except DataError as error:
                return Trouble(reason=str(error))
        refused = understand(replace(reply, body=body), "")
        return refused if isinstance(refused, Trouble) else Trouble(reason="no answer in tokens")

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

    def _connections(self) -> httpx2.AsyncClient:
        """Return a client that follows no redirect and uses no proxy of the environment."""
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
