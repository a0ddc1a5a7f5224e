"""What the tour is made of: named checks in order, and one way to call both kinds of client.

A check is a function of a `Tour`, run once, in the order of the files; what later checks need of
earlier ones is kept in `tour.story`. Nothing of the product is imported: only the `openai` client
and what it sends and reads are looked at.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 240.0  # a worker is niced: on a busy machine it waits
LN_2 = 0.6931471805599453


@dataclass(frozen=True, kw_only=True)
class Tour:
    """One client on its way through the contract."""

    client: Any  # checks every answer against its own types
    lenient: Any  # does not, as a user's: those types lack the state `paused`
    openai: Any  # the module
    folder: Path  # with rows to upload
    story: dict[str, Any]  # what earlier checks made
    key: str
    url: str

    def rows(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def uploaded(self, name: str) -> str:
        """Return the id of a file of rows, uploaded once."""
        if name not in self.story:
            with self.rows(name).open("rb") as file:
                self.story[name] = self.client.files.create(file=file, purpose="fine-tune").id
        found: str = self.story[name]
        return found

    def until(self, job_id: str, *states: str) -> Any:
        """Return a job once it is in one of these states."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            job = self.client.fine_tuning.jobs.retrieve(job_id)
            if job.status in states:
                return job
            assert job.status not in ("failed", "cancelled", "succeeded"), (job.status, job.error)
            time.sleep(0.2)
        raise AssertionError(f"still {job.status} after {PATIENCE_S} s, not {states}")

    def chat(self, model: str, **more: Any) -> Any:
        """Ask something small."""
        asked = {"max_tokens": 6, "seed": 1, **more}
        messages = [{"role": "user", "content": "what is the answer"}]
        return self.client.chat.completions.create(model=model, messages=messages, **asked)


Check = Callable[[Tour], None]
CHECKS: dict[str, Check] = {}
ONCE: set[str] = set()  # checks that train: done by the blocking clients alone
NEWEST: set[str] = set()  # checks of the server more than of a client: the newest, blocking


def check(function: Check) -> Check:
    """Add a check to the tour."""
    CHECKS[function.__name__] = function
    return function


def check_once(function: Check) -> Check:
    """Add a check that only the blocking client of each version makes."""
    ONCE.add(function.__name__)
    return check(function)


def check_newest(function: Check) -> Check:
    """Add a check that only the newest blocking client makes."""
    NEWEST.add(function.__name__)
    return check(function)


def same(found: object, expected: object) -> None:
    """Say what was found where it is not what was expected."""
    assert found == expected, f"{found!r} is not {expected!r}"


def refused(
    tour: Tour,
    call: Callable[[], Any],
    kind: str = "BadRequestError",
    *,
    param: str | None = None,
    code: str | None = None,
    says: str = "",
) -> Any:
    """Check that a call is refused with this class of error, and return the error."""
    try:
        got = call()
    except tour.openai.APIStatusError as error:
        same(type(error).__name__, kind)
        body = error.body
        same(set(body), {"message", "type", "param", "code"})
        same(body["type"], "invalid_request_error")
        if param is not None:
            same(error.param, param)
        if code is not None:
            same(error.code, code)
        assert says in body["message"], f"{body['message']!r} does not say {says!r}"
        assert error.request_id, "no x-request-id"
        assert tour.key not in str(error.body), "the key is quoted"
        return error
    raise AssertionError(f"was not refused: {got!r}")


class Blocking:
    """An asynchronous client called as if it were a blocking one."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner, self._loop = inner, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if callable(found) and inspect.isroutine(found):
            return lambda *given, **named: self._settled(found(*given, **named))
        is_part = type(found).__module__.startswith("openai.resources")
        return Blocking(found, self._loop) if is_part else found

    def __iter__(self) -> Iterator[Any]:
        items = self._inner.__aiter__()
        while True:
            try:
                yield self._loop.run_until_complete(items.__anext__())
            except StopAsyncIteration:
                return

    def _settled(self, got: Any) -> Any:
        if inspect.isawaitable(got):
            got = self._loop.run_until_complete(_awaited(got))
        is_client = type(got) is type(self._inner)  # such as one with other options
        return Blocking(got, self._loop) if is_client or hasattr(type(got), "__aiter__") else got


async def _awaited(work: Any) -> Any:
    return await work
