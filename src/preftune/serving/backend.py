"""Who answers prompts: the generation process of this server.

The process is started by the first request that needs it and again when it has died. A request that
it took with it is asked once more, unless the client has read a part of the answer already.
"""

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import httpx2
import msgspec
from msgspec import Meta

from preftune.serving.api.errors import ApiError
from preftune.serving.child import Child, start_child
from preftune.settings import checked
from preftune.wire.chat import Answer, Ask, Done, Failed, Health, Score, Scored, read_line

SERVER_ERROR = 500
NO_END = 1 << 62
POLL_S = 0.05
HEALTH_S = 1.0  # for a word on how the process is
BUSY_S = 1.0  # to wait before asking again, when all places are taken
AWAY_S = 2.0  # the same, when the process has died
BROKEN_S = 10.0  # the same, when it does not start


logger = logging.getLogger("preftune.errors")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendSettings:
    """What the generation process may use, and how patient the server is with it."""

    generation_threads: Annotated[
        int, Meta(ge=0, description="Processor threads of the generation process; 0: all.")
    ] = 0
    generation_memory_gib: Annotated[
        float, Meta(gt=0, description="Weights it keeps; the longest unused leave first.")
    ] = 8.0
    generation_start_s: Annotated[
        float, Meta(gt=0, description="Longest time for the generation process to start.")
    ] = 120.0
    generation_silence_s: Annotated[
        float, Meta(gt=0, description="Longest time without a word from it; then it is given up.")
    ] = 600.0
    most_replies: Annotated[
        int, Meta(ge=1, description="Replies under way at once; what comes then is told to wait.")
    ] = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One prompt, and the name that the client gave for the model."""

    name: str
    ask: Ask

    @property
    def replies(self) -> int:
        """How many replies are drawn."""
        return max(self.ask.n, self.ask.best_of)


class Backend(Protocol):
    """Answers prompts, many at once.

    Attributes:
        settings: `most_replies` bounds what one request may ask for.
    """

    settings: BackendSettings

    def answers(self, question: Question) -> AsyncGenerator[Answer, None]:
        """Yield the records of an answer, `Begun` first and `Done` last.

        Whoever closes the generator early gives the places of the replies back.

        Raises:
            ApiError: no answer, or none beyond what was yielded.
        """

    async def scores(self, question: Score, /) -> tuple[float, ...]:
        """Return what a reward model says, one number per row.

        Raises:
            ApiError: no answer.
        """

    async def health(self) -> Health | None:
        """Return how the generation process is; None while there is none, or none of ours."""

    def close(self) -> None:
        """End what was started; requests under way are lost."""


class LostError(ApiError):
    """The generation process ended before it had answered."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "The process that generates text ended while it answered. Send the request again.",
            code="backend_lost",
            retry_after_s=AWAY_S,
        )


class Places:
    """Bounds the replies under way, so that a queue stays short and its clients hear of it."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold places until the block ends; a prompt that finds nobody before it always fits.

        Raises:
            ApiError: 429, too many are taken.
        """
        if self.taken and self.taken + count > self.most:
            raise ApiError(
                429,
                f"{self.taken} replies are being written and {self.most} may be. Try again soon.",
                code="rate_limit_exceeded",
                retry_after_s=BUSY_S,
            )
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


class OwnBackend:
    """The generation process of this server; all of it belongs to one event loop."""

    def __init__(self, settings: BackendSettings, *, log: Path) -> None:
        """Take the settings, and the file for what the process prints; nothing is started."""
        self.settings, self.log = checked(settings), log
        self._places = Places(settings.most_replies)
        self._lock = asyncio.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="preftune-"))  # short: socket names must be
        self._starts, self._is_up = 0, False
        self._http = self._client()
        self._process: Child | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process that answers now; None when there is none."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and alive else None

    async def answers(self, question: Question) -> AsyncGenerator[Answer, None]:
        """Yield the records of an answer; one that is not streamed comes all at once, at its end.

        Raises:
            ApiError: as `Backend.answers`; `LostError` when the process died, and a second time
                where nothing had been yielded.
        """
        with self._places.take(question.replies):
            told = False
            for is_last in (False, True):
                try:
                    async with aclosing(self._records(question)) as records:
                        async for record in records:
                            told = True
                            yield record
                except LostError:
                    if told or is_last:
                        raise
                else:
                    return

    async def scores(self, question: Score, /) -> tuple[float, ...]:
        """Return what a reward model says, one number per row.

        Raises:
            ApiError: the folder is no reward model, or the process died, twice.
        """
        with self._places.take(len(question.rows)):
            try:
                return await self._scores(question)
            except LostError:
                return await self._scores(question)

    async def health(self) -> Health | None:
        """Return how the process is; None while it is not running."""
        if self._process is None or self._process.poll() is not None:
            return None
        with suppress(httpx2.TransportError):
            reply = await self._http.get("/health", timeout=HEALTH_S)
            return msgspec.json.decode(reply.content, type=Health)
        return None

    async def start(self) -> None:
        """Return once the process answers; start it if there is none.

        Raises:
            ApiError: 503, it ended at once or took too long.
        """
        async with self._lock:
            if self._is_up and self.pid is not None:
                return
            self._is_up = False
            ends, has_started = time.monotonic() + self.settings.generation_start_s, False
            while time.monotonic() < ends:
                if self.pid is None:
                    if has_started:
                        break
                    self._spawn()
                    has_started = True
                if await self.health() is not None:
                    self._is_up = True
                    return
                await asyncio.sleep(POLL_S)
        raise ApiError(
            503,
            f"The process that generates text does not start. Whoever runs this server finds the "
            f"reason in {self.log.name}.",
            code="backend_unavailable",
            retry_after_s=BROKEN_S,
        )

    def close(self) -> None:
        """End the process, at once: it keeps nothing that could be lost."""
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self) -> None:
        self._starts += 1
        self._http = self._client()
        s = self.settings
        threads = s.generation_threads or os.cpu_count() or 1
        module = ["preftune.hosting", "--socket", str(self._folder / str(self._starts))]
        module += ["--threads", str(threads)]
        module += ["--memory-gib", str(s.generation_memory_gib)]
        self._process = start_child(module, log=self.log, nice=0)

    def _client(self) -> httpx2.AsyncClient:
        """Return who asks the process; no connection outlives what it was opened for."""
        socket = str(self._folder / str(self._starts))
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=socket, verify=False, limits=limits),
            base_url="http://generation",
            timeout=self.settings.generation_silence_s,
            trust_env=False,
        )

    async def _records(self, question: Question) -> AsyncGenerator[Answer, None]:
        """Yield the records of one try, all at once unless they are streamed."""
        kept: list[Answer] = []
        record: Answer | None = None
        async with self._asked("/generate", question.ask) as reply:
            async for line in lines_of(reply):
                record = read_line(line)
                if isinstance(record, Failed):
                    raise refusal(record, question)
                if question.ask.stream:
                    yield record
                else:
                    kept.append(record)
        if not isinstance(record, Done):
            raise LostError
        for record in kept:
            yield record

    async def _scores(self, question: Score) -> tuple[float, ...]:
        async with self._asked("/score", question) as reply:
            found = msgspec.json.decode(await reply.aread(), type=Scored | Failed)
        if isinstance(found, Failed):
            raise refusal(found)
        return found.scores

    @asynccontextmanager
    async def _asked(self, path: str, question: Ask | Score) -> AsyncIterator[httpx2.Response]:
        """Post something to a running process and yield the answer, whatever its status."""
        await self.start()
        body = msgspec.json.encode(question)
        try:
            async with self._http.stream("POST", path, content=body) as reply:
                yield reply
        except httpx2.TransportError as error:
            self._is_up = False
            raise LostError from error


async def lines_of(
    reply: httpx2.Response, *, most_bytes: int = NO_END
) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a body as they come, split at newlines alone; texts may hold others.

    Raises:
        ApiError: 503, the body is longer than `most_bytes`.
    """
    rest, read = b"", 0
    async for piece in reply.aiter_bytes():
        read += len(piece)
        if read > most_bytes:
            raise ApiError(503, f"An answer of more than {most_bytes} bytes. Ask for less at once.")
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def refusal(failed: Failed, question: Question | None = None) -> ApiError:
    """Return the error that says what the generation process said, folders by their names.

    What is wrong on the server's side goes to its log alone.
    """
    message, param = failed.message, failed.param
    if failed.status >= SERVER_ERROR:
        logger.error("generation: %s", message)
        message = (
            "The model could not answer. Whoever runs this server finds the reason in its log."
        )
    if question is not None:
        folders = (question.ask.model, question.ask.base, question.ask.reward_model)
        for folder in filter(None, folders):
            message = message.replace(folder, question.name)
        param = "prompt" if param == "messages" and not question.ask.messages else param
    wait_s = BUSY_S if failed.status in (429, 503) else None
    return ApiError(failed.status, message, param=param, code=failed.code, retry_after_s=wait_s)
