"""What the commands say to a running server: requests, pages, uploads, and following a job."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from preftune.errors import DataError, PreftuneError, SettingsError
from preftune.files import atomic_open
from preftune.responses.secret import Secret
from preftune.text import visible

KEY = "PREFTUNE_API_KEY"
PATIENCE_S = 2.0  # how long a server may be away before a command gives up
LONG_PATIENCE_S = 120.0  # and before one that follows a job does
PAUSE_S = 0.5  # between two tries
ENDED = ("succeeded", "failed", "cancelled")
RESTS = (*ENDED, "paused")
PAGE = 100


class ServerError(PreftuneError, RuntimeError):
    """The server cannot be reached, or refuses; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A job as it is, and what was told of it since the moment before."""

    job: dict[str, Any]
    events: tuple[dict[str, Any], ...]  # the oldest first

    @property
    def step(self) -> int:
        """The last step that was told; 0: none since the moment before."""
        return max((event["data"]["step"] for event in self.metrics), default=0)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The events of steps."""
        return [event for event in self.events if event["type"] == "metrics"]


def one(name: str) -> str:
    """Return an id as the one part of a path that it is, whatever stands in it.

    Raises:
        DataError: a name that no part of a path can have.
    """
    if name in ("", ".", ".."):
        raise DataError(f"{name!r}: no id. Give one as the lists show it.")
    return quote(name, safe="")


class Api:
    """A server that speaks OpenAI's API, asked with the key of the environment."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        """Take the address, such as `http://127.0.0.1:8000/v1`; nothing is sent yet.

        Args:
            url: with the path that all requests begin with.
            patience_s: how long to wait for a server that is away, such as one that starts again.

        Raises:
            SettingsError: no key in the environment, or the address is none.
        """
        if not os.environ.get(KEY):
            raise SettingsError(f"{KEY}: is not set. Export the key that `preftune serve` printed.")
        if not _is_address(url):
            raise SettingsError(f"{visible(url)}: no address. Give one like http://host:8000/v1.")
        self.url, self.patience_s = url.rstrip("/"), patience_s
        bearer = {"Authorization": f"Bearer {Secret(os.environ[KEY]).reveal()}"}
        self._http = httpx2.Client(headers=bearer, trust_env=False, timeout=600.0)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return an answer; a server that is away is waited for.

        Raises:
            ServerError: it refuses, or is away for too long.
        """
        asked = {name: value for name, value in query.items() if value is not None}
        return self._object(self._send("GET", path, again=True, params=asked))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request that changes something, and return the answer.

        With a body it makes something, once, however often it has to be sent.
        """
        if body is None:
            return self._object(self._send("POST", path, again=False))
        once = {"Idempotency-Key": uuid.uuid4().hex}
        return self._object(self._send("POST", path, again=True, json=body, headers=once))

    def delete(self, path: str) -> dict[str, Any]:
        """Delete something and return the answer."""
        return self._object(self._send("DELETE", path, again=False))

    def all(self, path: str, *, most: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a list, page after page, `most` of them at most."""
        after, left = None, most
        while left is None or left > 0:
            limit = PAGE if left is None else min(left, PAGE)
            page = self.get(path, after=after, limit=limit, **query)
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            after = page["data"][-1]["id"]
            left = None if left is None else left - len(page["data"])

    def upload(self, path: Path) -> dict[str, Any]:
        """Upload a file of rows and return what the server made of it."""
        if not path.is_file():
            raise DataError(f"{path}: no such file. Give a file of rows, or the id of an upload.")
        with path.open("rb") as file:
            parts = {"file": (path.name, file, "application/octet-stream")}
            sent = {"purpose": "fine-tune"}
            return self._object(self._send("POST", "/files", again=False, files=parts, data=sent))

    def download(self, file_id: str, path: Path) -> int:
        """Write the content of a file, and return its bytes."""
        content = self._send("GET", f"/files/{one(file_id)}/content", again=True).content
        with atomic_open(path) as file:
            file.write(content)
        return len(content)

    def file_id(self, given: str) -> str:
        """Return the id of an upload; what is no id is a path, and uploaded first."""
        if given.startswith("file-") and not Path(given).exists():
            return given
        uploaded: str = self.upload(Path(given))["id"]
        return uploaded

    def watch(self, job_id: str, *, every_s: float = 1.0) -> Iterator[Moment]:
        """Yield a job again and again until it has ended or is paused; a restart is waited out."""
        last = ""
        while True:
            path = f"/fine_tuning/jobs/{one(job_id)}"
            job = self.get(path)
            events = []
            for event in self.all(f"{path}/events"):
                if event["id"] == last:
                    break
                events.append(event)
            last = events[0]["id"] if events else last
            yield Moment(job=job, events=tuple(reversed(events)))
            if job["status"] in RESTS:
                return
            time.sleep(every_s)

    def _send(self, verb: str, path: str, *, again: bool, **what: Any) -> httpx2.Response:
        until = time.monotonic() + self.patience_s
        while True:
            try:
                answer = self._http.request(verb, f"{self.url}{path}", **what)
            except httpx2.TransportError as error:
                trouble = f"{self.url}: {type(error).__name__}. Is the server running there? Start "
                trouble += "it with: preftune serve"
                lost = again or isinstance(error, httpx2.ConnectError)
            else:
                if answer.is_success:
                    return answer
                trouble = _refusal(answer)
                lost = again and answer.status_code in (429, 500, 502, 503, 504)
            if not lost or time.monotonic() > until:
                raise ServerError(trouble)
            time.sleep(PAUSE_S)

    def _object(self, answer: httpx2.Response) -> dict[str, Any]:
        found = answer.json() if "json" in answer.headers.get("content-type", "") else None
        if not isinstance(found, dict):
            raise ServerError(f"{self.url}: answers something else. Is /v1 in the address?")
        return found


def _is_address(url: str) -> bool:
    try:
        return httpx2.URL(url).scheme in ("http", "https") and bool(httpx2.URL(url).host)
    except httpx2.InvalidURL:
        return False


def _refusal(answer: httpx2.Response) -> str:
    """Return what the server said, or what its status means."""
    try:
        said = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"answered {answer.status_code}. Look at the address: it ends in /v1."
    return f"server: {visible(str(said))}"
