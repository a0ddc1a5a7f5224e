"""When to ask again: full jitter, the server's own wish, and an end to asking a dead server."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random


def wait_s(
    attempt: int, *, first_s: float, most_s: float, asked_s: float | None, random: Random
) -> float:
    """Return how long to wait after attempt 0, 1, …: uniform below a bound that doubles.

    The bound is `first_s`, twice that, four times that, up to `most_s`. What the server asked for
    is waited in full, the jitter on top, so that many callers do not come back at one moment.

    Source: Brooker 2015, "Exponential Backoff And Jitter" (full jitter).
    """
    return (asked_s or 0.0) + random.uniform(0, min(most_s, first_s * 2.0**attempt))


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return the seconds a `Retry-After` header asks for, >= 0; None when it cannot be read.

    Source: RFC 9110, section 10.2.3: seconds or a date.
    """
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


class Breaker:
    """Opens after `limit` failures with no success between them, or at once; stays open."""

    def __init__(self, limit: int) -> None:
        self._limit, self._failures, self._reason = limit, 0, ""

    @property
    def reason(self) -> str:
        """Return why nothing is asked any more; empty while asking goes on."""
        return self._reason

    def succeeded(self) -> None:
        """Count from nought again."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Count one failure."""
        self._failures += 1
        if self._failures >= self._limit:
            self.open(f"{self._failures} failures in a row, the last: {reason}")

    def open(self, reason: str) -> None:
        """Stop asking."""
        self._reason = self._reason or reason
