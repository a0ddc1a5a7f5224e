"""What asking costs: an estimate before, a ledger while it goes on, a cap on both."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from preftune.errors import RowError, SettingsError
from preftune.responses.chat_client import ChatRequest
from preftune.responses.journal import Journal

BYTES_PER_TOKEN = 3  # English has 4 to 5: the guess is on the high side
TOKENS_PER_MESSAGE = 8  # role and turn marks
ROUNDING_USD = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What a model costs, in USD per million tokens."""

    usd_in: float
    usd_out: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(price) and price >= 0 for price in (self.usd_in, self.usd_out)):
            raise SettingsError(
                f"prices {self.usd_in} in, {self.usd_out} out. Give USD per million tokens, >= 0."
            )

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what so many tokens cost; a million each way costs `usd_in` + `usd_out`."""
        return (prompt_tokens * self.usd_in + completion_tokens * self.usd_out) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What some requests will cost if every answer is as long as allowed."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, about {self.prompt_tokens} prompt tokens, "
            f"at most {self.completion_tokens} completion tokens"
        )


FREE = Prices(usd_in=0.0, usd_out=0.0)


def estimate(requests: Sequence[ChatRequest], prices: Prices = FREE) -> Estimate:
    """Return the estimate: a prompt token per 3 bytes of UTF-8, every answer at `max_tokens`."""
    prompt = sum(map(guess_prompt_tokens, requests))
    completion = sum(request.max_tokens for request in requests)
    return Estimate(
        requests=len(requests),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_usd=prices.cost_usd(prompt, completion),
    )


def guess_prompt_tokens(request: ChatRequest) -> int:
    """Return about how many tokens a prompt has: one per 3 bytes, and 8 per message."""
    size = sum(len(message.content.encode()) for message in request.messages)
    calls = (message.tool_calls for message in request.messages if message.tool_calls)
    size += sum(len(msgspec.json.encode(extra)) for extra in (*request.tools, *calls))
    return math.ceil(size / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * len(request.messages)


class _Entry(msgspec.Struct, omit_defaults=True):
    """One line: `sent` books the estimate, `done` replaces it by what was paid."""

    n: int
    usd: float
    state: Literal["sent", "done"]
    key: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Ledger:
    """Books every request before it is sent, at its estimate, and corrects that after the answer.

    A request whose answer never came (a crash, a timeout, a cut connection) stays booked in full,
    for nobody knows whether it was paid. So the file never says less than was spent, as far as the
    estimate of that request holds.
    """

    def __init__(self, journal: Journal, *, cap_usd: float | None = None) -> None:
        """Take the journal to write to; what it holds counts against the cap.

        Raises:
            RowError: a damaged line.
            SettingsError: a cap that is not a number >= 0.
        """
        if cap_usd is not None and not (math.isfinite(cap_usd) and cap_usd >= 0):
            raise SettingsError(f"cost cap {cap_usd}. Give a number of USD, >= 0.")
        self.cap_usd, self._journal = cap_usd, journal
        self._lock = threading.Lock()
        self._usd: dict[int, float] = {}
        self._spent_usd = 0.0
        for row, line in enumerate(journal.found, start=1):
            self._take(_entry(journal.path, row, line))

    @property
    def spent_usd(self) -> float:
        """Return what was paid and what may have been: answers, and requests without one."""
        return self._spent_usd

    def refuse_above_cap(self, wanted_usd: float) -> None:
        """Raise `SettingsError` if the estimate, on top of what is spent, is above the cap."""
        if self._over(wanted_usd):
            raise SettingsError(
                f"cost cap {self.cap_usd} USD: {self.spent_usd:.4f} spent before and up to "
                f"{wanted_usd:.4f} to come. Raise the cap, or ask for fewer or shorter answers."
            )

    def book(self, key: str, estimate_usd: float) -> int | None:
        """Return the number of a booking, on file before it returns; None if the cap forbids it."""
        with self._lock:
            if self._over(estimate_usd):
                return None
            entry = _Entry(n=len(self._usd) + 1, usd=estimate_usd, state="sent", key=key)
            self._journal.note(_line(entry))
            self._take(entry)
            return entry.n

    def settle(
        self, booking: int, usd: float, *, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> None:
        """Put what a request really cost in place of its estimate."""
        entry = _Entry(
            n=booking,
            usd=usd,
            state="done",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )
        with self._lock:
            self._journal.add(_line(entry))
            self._take(entry)

    def _over(self, wanted_usd: float) -> bool:
        cap = self.cap_usd
        return cap is not None and self._spent_usd + wanted_usd > cap + ROUNDING_USD

    def _take(self, entry: _Entry) -> None:
        self._spent_usd += entry.usd - self._usd.get(entry.n, 0.0)
        self._usd[entry.n] = entry.usd


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Where the requests to one model are booked, and at which prices."""

    ledger: Ledger
    prices: Prices

    def book(self, request: ChatRequest) -> int | None:
        """Return the number of the booking; None if the cap forbids it."""
        return self.ledger.book(request.key, estimate([request], self.prices).cost_usd)

    def settle(self, booking: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Put what was really used in place of the estimate."""
        self.ledger.settle(
            booking,
            self.prices.cost_usd(prompt_tokens, completion_tokens),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )


def _line(entry: _Entry) -> bytes:
    return msgspec.json.encode(entry) + b"\n"


def _entry(path: Path, row: int, line: bytes) -> _Entry:
    try:
        return msgspec.json.decode(line, type=_Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RowError(
            path, row, f"damaged line: {error}", "Repair it from a copy; it says what was spent"
        ) from error
