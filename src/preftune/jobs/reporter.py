"""What a worker tells the server: in order, from a thread of its own, so that training goes on.

A server that is away is asked again for minutes. Answered that the job is somebody else's now, the
worker leaves at once and publishes nothing.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec

from preftune.errors import PreftuneError
from preftune.wire.job import (
    BEAT_S,
    LOST,
    Beat,
    Beaten,
    Checkpoint,
    Event,
    Events,
    Finish,
    JobSpec,
    Started,
)

PATIENCE_S = 600.0  # how long a message is tried again
LEAVING_PATIENCE_S = 10.0  # the same for the last word of a worker that was told to leave
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
TOGETHER = 200  # events in one message
IDLE_S = 0.2
LEAVE_S = 15.0  # how long a worker that lost its job may take to let go of all it holds
ABANDONED = 4  # exit code of one that took longer
Message = Started | Checkpoint | Event
logger = logging.getLogger("preftune.jobs")


class UnheardError(PreftuneError, ConnectionError):
    """The server did not take a message, however often it was sent."""


@dataclass(kw_only=True, slots=True)
class Standing:
    """How far the job is; the next beat says so."""

    saved: int = 0  # steps in the last checkpoint
    total: int | None = None
    finish_s: float | None = None  # seconds since 1970


@dataclass(kw_only=True, slots=True)
class Reporter:
    """The worker's side of the protocol of `wire/job.py`."""

    spec: JobSpec
    secret: str = field(repr=False)
    standing: Standing = field(default_factory=Standing)
    asked: str = ""  # by the server, at the last beat
    lost: bool = False  # the job is somebody else's, or nobody hears us
    finishing: bool = False  # the last word is on its way
    closing: bool = False  # nothing more will be told
    waiting: deque[Message] = field(default_factory=deque)
    fresh: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    sender: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat and to send."""
        self.sender = threading.Thread(target=self._send_all, name="sender", daemon=True)
        self.sender.start()
        threading.Thread(target=self._beat_on, name="beat", daemon=True).start()

    def tell(self, message: Message) -> None:
        """Send a message when those before it are heard; returns at once."""
        self.waiting.append(message)
        self.fresh.set()

    def last_word(self, word: Finish) -> None:
        """Send all that waits, then the last word; return when it is heard.

        A full disk is told of until it is heard; a worker that was told to leave tries for seconds.

        Raises:
            UnheardError: nobody heard it.
        """
        patience = LEAVING_PATIENCE_S if word.outcome == "stopped" else PATIENCE_S
        self.finishing = self.closing = True
        self.fresh.set()
        if self.sender is not None:
            self.sender.join(timeout=patience)
        with self._client() as client:
            self._post(client, "finish", word, patience_s=float("inf") if word.why else patience)
        self.ended.set()

    def _send_all(self) -> None:
        with self._client() as client:
            while not self.lost:
                batch = self._next()
                if isinstance(batch, list) and batch:
                    self._send(client, "events", Events(fence=self.spec.fence, events=batch))
                elif isinstance(batch, Started | Checkpoint):
                    self._send(client, type(batch).__name__.lower(), batch)
                elif self.closing:
                    return
                else:
                    self.fresh.wait(IDLE_S)
                    self.fresh.clear()

    def _next(self) -> list[Event] | Started | Checkpoint:
        """Return what to send next: all events that wait in a row, or one other message."""
        events: list[Event] = []
        while self.waiting and len(events) < TOGETHER:
            message = self.waiting.popleft()
            if isinstance(message, Event):
                events.append(message)
            elif not events:
                return message
            else:
                self.waiting.appendleft(message)
                break
        return events

    def _send(self, client: httpx2.Client, what: str, message: Any) -> None:
        with contextlib.suppress(UnheardError):
            self._post(client, what, message, patience_s=PATIENCE_S)

    def _beat_on(self) -> None:
        with self._client() as client:
            while not self.ended.is_set() and not self.lost:
                beat = Beat(
                    fence=self.spec.fence,
                    step=self.standing.saved,
                    total_steps=self.standing.total,
                    estimated_finish_s=self.standing.finish_s,
                )
                with contextlib.suppress(UnheardError):
                    answer = self._post(client, "beat", beat, patience_s=0.0)
                    self.asked = msgspec.json.decode(answer, type=Beaten).asked
                    if self.asked == "cancel" and not self.finishing:
                        self._lose("cancelled")
                self.ended.wait(BEAT_S)

    def _client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"{self.spec.server}/internal/jobs/{self.spec.job_id}/",
            headers={"authorization": f"Bearer {self.secret}"},
            timeout=30.0,
            trust_env=False,
        )

    def _post(self, client: httpx2.Client, what: str, message: Any, *, patience_s: float) -> bytes:
        """Return the answer to a message.

        Raises:
            UnheardError: no answer in time, or the job is not ours any more.
        """
        until, wait = time.monotonic() + patience_s, FIRST_WAIT_S
        while True:
            problem, again = "", True
            try:
                answer = client.post(what, content=msgspec.json.encode(message))
                if answer.is_success:
                    return answer.content
                problem = f"HTTP {answer.status_code}: {answer.text[:200]}"
                again = answer.status_code >= 500 or answer.status_code == 429
                late = what == "beat" and self.finishing  # the last word may be heard already
                if answer.status_code in (LOST, 401, 403, 404) and not late:
                    self._lose(problem)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            if not again or self.lost or time.monotonic() + wait > until:
                if what not in ("beat", "finish"):
                    self._lose(f"{what}: {problem}")
                raise UnheardError(f"{what}: {problem}. Look at the server.")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _lose(self, why: str) -> None:
        """Let the worker leave, whatever it is doing."""
        if not self.lost:
            self.lost = True
            logger.warning("leaving: %s", why)
            threading.Thread(target=_interrupt, name="leave", daemon=True).start()


def _interrupt() -> None:
    """Interrupt the main thread until the process ends; then end it."""
    until = time.monotonic() + LEAVE_S
    while time.monotonic() < until:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
    os._exit(ABANDONED)
