"""Every answer a judge was paid for, one line each, in a file that only grows.

A line is written as its answer comes, so a killed run has lost nothing but the calls in flight. The
first line holds the secret salt of the fences; with it a later run asks the very same questions and
finds their answers here.
"""

import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from preftune.errors import RowError
from preftune.responses.chat_client import ChatAnswer
from preftune.responses.journal import Journal

SYNC_EVERY_S = 1.0  # at most this much is lost when the power fails; nothing when the process dies


class CallLog:
    """Answers by key, and the salt; one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open the log, or make it; a last line torn by a kill is cut.

        Raises:
            DataError: another process has it open.
            RowError: a line is damaged, or the file is no log of calls.
        """
        self._journal, self._synced = Journal(path), time.monotonic()
        self._answers: dict[str, ChatAnswer] = {}
        try:
            self.salt = self._read(path)
        except BaseException:
            self._journal.__exit__(None, None, None)
            raise

    def get(self, key: str) -> ChatAnswer | None:
        """Return the last answer to a question, None when there is none."""
        return self._answers.get(key)

    def put(self, answer: ChatAnswer) -> None:
        """Keep an answer; it has left this process when this returns."""
        self._append(answer)
        self._answers[answer.key] = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._journal.add(b"")  # what was only noted is on disk now
        self._journal.__exit__(kind, error, trace)

    def _append(self, row: object) -> None:
        line, now = msgspec.json.encode(row) + b"\n", time.monotonic()
        if now - self._synced > SYNC_EVERY_S:
            self._journal.add(line)
            self._synced = now
        else:
            self._journal.note(line)

    def _read(self, path: Path) -> bytes:
        """Return the salt, a new one for a new file, after taking the answers in."""
        if not self._journal.found:
            salt = secrets.token_bytes(16)
            self._append({"salt": salt.hex()})
            return salt
        for number, line in enumerate(self._journal.found[1:], start=2):
            try:
                answer = msgspec.json.decode(line, type=ChatAnswer)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                fix = "Delete the line; its question is asked again"
                raise RowError(path, number, f"damaged: {error}", fix) from error
            self._answers[answer.key] = answer
        try:
            return bytes.fromhex(
                msgspec.json.decode(self._journal.found[0], type=dict[str, str])["salt"]
            )
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            raise RowError(path, 1, "no log of calls", "Give another file") from error
