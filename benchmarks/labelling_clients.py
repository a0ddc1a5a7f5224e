"""Raters without a browser: they fetch an item, judge it, and send the verdict until it is taken.

A small HTTP client of its own keeps the load of the clients low: they share the cores with the
server that is measured.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftune.serving.security import csrf_token

COOKIE = "preftune"
AGAIN_S = 0.05  # between tries while the server is away
GRADES = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """A verdict that the server said it has."""

    key: str
    item_id: str
    round: int
    grade: int
    seconds: float  # from sending to the answer, tries included


@dataclass(kw_only=True, slots=True)
class Rater:
    """One client, signed in, on one connection."""

    port: int
    token: str
    project_id: str
    acknowledged: list[Acknowledged] = field(default_factory=list)
    tries: int = 0  # requests that got no answer
    _open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def work(self, enough: Callable[[], bool]) -> None:
        """Judge until there is enough, or nothing left."""
        task = (await self.ask("GET", "next"))["task"]
        while task is not None and not enough():
            task = await self.judge(task)
        self.close()

    async def judge(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """Send one verdict, under one key, until it is acknowledged; return the next item."""
        key, grade = secrets.token_hex(16), 1 + len(self.acknowledged) % GRADES
        said = {
            "item_id": task["item_id"],
            "round": task["round"],
            "verdicts": {"overall": {"kind": "scale", "grade": grade}},
        }
        began = time.monotonic()
        answer = await self.ask("POST", "vote", said, key)
        self.acknowledged.append(
            Acknowledged(
                key=key,
                item_id=task["item_id"],
                round=task["round"],
                grade=grade,
                seconds=time.monotonic() - began,
            )
        )
        after: dict[str, Any] | None = answer["next"]["task"]
        return after

    async def ask(self, method: str, what: str, body: Any = None, key: str = "") -> Any:
        """Return the answer to a request; sent again, under its key, until there is one."""
        while True:
            try:
                return await self._once(method, what, body, key)
            except (OSError, asyncio.IncompleteReadError):
                self.tries += 1
                self.close()
                await asyncio.sleep(AGAIN_S)

    async def _once(self, method: str, what: str, body: Any, key: str) -> Any:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._open
        content = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{method} /p/{self.project_id}/label/{what} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Origin: http://127.0.0.1:{self.port}",
            f"Cookie: {COOKIE}={self.token}",
            f"X-CSRF-Token: {csrf_token(self.token)}",
            "Accept: application/json",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        ]
        if key:
            head.append(f"Idempotency-Key: {key}")
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + content)
        await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        lines = answer.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        content = await reader.readexactly(int(fields["content-length"]))
        status = int(lines[0].split()[1])
        if status != 200:
            raise RuntimeError(f"{method} {what}: {status} {content[:300]!r}")
        return json.loads(content)

    def close(self) -> None:
        """Let go of the connection."""
        if self._open is not None:
            self._open[1].close()
        self._open = None


async def all_work(raters: Sequence[Rater], enough: Callable[[], bool]) -> None:
    """Let all raters work at once."""
    async with asyncio.TaskGroup() as group:
        for rater in raters:
            group.create_task(rater.work(enough))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
