"""Somebody who asks the engine and waits for its lines."""

from queue import Queue

from preftune.hosting.engine import Engine, Ticket
from preftune.wire.chat import Answer, Ask, read_line


class Listener:
    """Somebody who waits for the lines of one request."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self.engine = engine
        self.lines: Queue[tuple[bytes, bool]] = Queue()
        self.ticket = Ticket(ask=ask, send=lambda lines, last: self.lines.put((lines, last)))
        engine.submit(self.ticket)

    def next(self) -> tuple[list[Answer], bool]:
        """Return what comes next, and whether it is the end."""
        lines, last = self.lines.get(timeout=60)
        return [read_line(line) for line in lines.splitlines()], last

    def all(self) -> list[Answer]:
        """Return all that is told, to the end."""
        found: list[Answer] = []
        last = False
        while not last:
            answers, last = self.next()
            found += answers
        return found
