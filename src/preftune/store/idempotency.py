"""Requests that make something, made once: under one key the first answer is given again.

What is made and its answer are one write. A server that is killed leaves both or neither; two that
come at the same time are written one after the other, and the second finds the first one's answer.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select

from preftune.errors import StoreError
from preftune.store.job_schema import idempotency

KEPT_S = 24 * 3600.0


class KeyReusedError(StoreError):
    """The key stands for another request."""


def request_hash(method: str, path: str, body: bytes) -> str:
    """Return what tells requests apart: 64 hex digits of SHA-256."""
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), body))).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What was answered to one request of a project under one key."""

    project_id: str  # keys of one project say nothing about another's
    key: str  # the client's name for the request
    request: str  # hash of the request, see `request_hash`
    now_s: float  # seconds since 1970

    def given(self, db: Connection) -> str | None:
        """Return the first answer; None where there is none of the last day.

        Raises:
            KeyReusedError: another request came under this key within the last day.
        """
        fresh = idempotency.c.created_s >= self.now_s - KEPT_S
        row = db.execute(select(idempotency).where(self._mine(), fresh)).one_or_none()
        if row is None:
            return None
        if row.request_hash != self.request:
            raise KeyReusedError(
                "Idempotency-Key: it was sent with another request before. Take a new key."
            )
        return str(row.answer)

    def once(self, db: Connection, make: Callable[[Connection], str]) -> tuple[str, bool]:
        """Make something and return its answer, and whether it was made now.

        Args:
            db: a connection that writes.
            make: makes it and returns the answer; what it raises leaves no trace.

        Raises:
            KeyReusedError: as `given`.
        """
        before = self.given(db)
        if before is not None:
            return before, False
        answer = make(db)
        db.execute(delete(idempotency).where(self._mine()))  # older than a day, if any
        row = {"project_id": self.project_id, "key": self.key, "request_hash": self.request}
        db.execute(insert(idempotency).values(**row, answer=answer, created_s=self.now_s))
        return answer, True

    def _mine(self) -> Any:
        return and_(idempotency.c.project_id == self.project_id, idempotency.c.key == self.key)


def forget_old(db: Connection, *, now_s: float) -> int:
    """Drop the answers that are older than a day, and return how many."""
    old = idempotency.c.created_s < now_s - KEPT_S
    return db.execute(delete(idempotency).where(old)).rowcount
