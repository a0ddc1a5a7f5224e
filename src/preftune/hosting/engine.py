"""The one thread that owns all models: it takes requests, steps replies, and tells of them."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread
from typing import TypeVar

import torch

from preftune.errors import PreftuneError
from preftune.hosting.asking import Asking
from preftune.hosting.groups import Alone, Group, Together, nothing_written
from preftune.hosting.library import Base, Library, Part, Served
from preftune.hosting.settings import HostingSettings
from preftune.hosting.stream import fits
from preftune.inference.reward_scorer import RewardScorer
from preftune.types import Message, Prompt, assistant
from preftune.wire.chat import TOO_LONG, Ask, Failed, Health, Score, Scored, encode_line

TROUBLE = (
    *(PreftuneError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, MemoryError, OSError),
)
SCORED_AT_ONCE = 8  # responses; replies that are being written wait for no more
T = TypeVar("T")


class RefusedError(Exception):
    """A request that cannot be answered."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


@dataclass(kw_only=True, eq=False, slots=True)
class Ticket:
    """A request and where its lines go.

    `send` is called in the engine's thread with lines, and with whether they are the last.
    """

    ask: Ask
    send: Callable[[bytes, bool], None]
    arrived_s: float = field(default_factory=time.monotonic)
    asking: Asking | None = None
    dropped: bool = False


@dataclass(kw_only=True, eq=False, slots=True)
class Scoring:
    """Responses to score, a few at a time."""

    ask: Score
    answer: "Future[Scored | Failed]"
    scores: list[float] = field(default_factory=list)


class Engine:
    """Answers requests in a thread of its own, until it is closed."""

    def __init__(self, settings: HostingSettings, *, died: Callable[[], None]) -> None:
        """Take the limits; `died` is called should the thread end before it is closed."""
        self.settings, self._died = settings, died
        self.library = Library(settings, self._in_use)
        self.groups: dict[tuple[Base, bool], Group] = {}  # True: written together
        self.tickets: list[Ticket] = []
        self.scorings: deque[Scoring] = deque()
        self.written_tokens, self.began_s = 0, time.monotonic()
        self._inbox: deque[Callable[[], None]] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the step under way; what is not finished stays unanswered."""
        self._do(lambda: setattr(self, "_closed", True))
        self._thread.join()

    def submit(self, ticket: Ticket) -> None:
        """Take a request."""
        self._do(lambda: self.tickets.append(ticket))

    def drop(self, ticket: Ticket) -> None:
        """Free the places of a request: nobody listens any more."""
        self._do(lambda: setattr(ticket, "dropped", True))

    def score(self, ask: Score) -> "Future[Scored | Failed]":
        """Return what will hold the scores of some responses."""
        scoring = Scoring(ask=ask, answer=Future())
        self._do(lambda: self.scorings.append(scoring))
        return scoring.answer

    def unload(self, folders: Sequence[str]) -> "Future[Health]":
        """Forget models that are not in use; return what will hold the state after it."""

        def forget() -> Health:
            self.library.unload(folders)
            return self._health()

        return self._call(forget)

    def health(self) -> "Future[Health]":
        """Return what will hold the state."""
        return self._call(self._health)

    def _call(self, function: Callable[[], T]) -> "Future[T]":
        found: Future[T] = Future()
        self._do(lambda: found.set_result(function()))
        return found

    def _do(self, command: Callable[[], None]) -> None:
        with self._changed:
            self._inbox.append(command)
            self._changed.notify()

    def _run(self) -> None:
        torch.set_num_threads(self.settings.threads)
        try:
            with torch.no_grad():
                while not self._closed:
                    self._wait()
                    self._turn()
        finally:
            if not self._closed:
                self._died()

    def _wait(self) -> None:
        with self._changed:
            while not self._inbox and not self.tickets and not self.scorings:
                self._changed.wait()
            commands = list(self._inbox)
            self._inbox.clear()
        for command in commands:
            command()

    def _turn(self) -> None:
        """Do one step of everything, then tell what is new."""
        for ticket in self.tickets:
            if ticket.dropped and ticket.asking is not None:
                ticket.asking.closed = True
            elif ticket.asking is None and not ticket.dropped:
                self._begin(ticket)
        self._hurry()
        for key, group in list(self.groups.items()):
            self._step(key, group)
        self._score()
        self._tell()

    def _begin(self, ticket: Ticket) -> None:
        try:
            asking = self._asking(ticket)
        except RefusedError as error:
            ticket.send(encode_line(error.failed), True)
            ticket.dropped = True
            return
        ticket.asking = asking
        asking.begin()
        telling = asking.ask.echo and asking.tells_logprobs
        if asking.ask.echo and not telling:
            asking.echo([], [])
        if asking.most or telling:
            self._group(asking).add(asking)
        else:
            nothing_written(asking)

    def _asking(self, ticket: Ticket) -> Asking:
        """Return a request with its model loaded and its prompt as tokens.

        Raises:
            RefusedError: the model cannot be loaded, or the prompt is nothing for it.
        """
        ask = ticket.ask
        try:
            served = self.library.serve(ask.model, base=ask.base, manifest_hash=ask.manifest_hash)
            if ask.reward_model:
                self.library.scorer(ask.reward_model, keep=served)
        except TROUBLE as error:
            said = Failed(status=500, message=f"{error}", code="model_unusable", param="model")
            raise RefusedError(said) from error
        ids = prompt_ids(served, ask)
        return Asking(
            ask=ask,
            served=served,
            prompt_ids=ids,
            prompt_text=served.text_of(ask.text, ids) if ask.echo else "",
            most=self._most(served, ask, len(ids)),
            arrived_s=ticket.arrived_s,
        )

    def _most(self, served: Served, ask: Ask, prompt_tokens: int) -> int:
        """Return how many tokens a reply may have."""
        asked, positions = ask.drawing.max_tokens, served.positions
        left = self.settings.longest_tokens if positions is None else positions - prompt_tokens
        most = min(left, self.settings.longest_tokens) if asked is None else asked
        if most > left or left < (asked is None):
            said = (
                f"This model's maximum context length is {positions} tokens. However, you "
                f"requested {prompt_tokens + (asked or 1)} tokens ({prompt_tokens} in the prompt, "
                f"{asked or 1} for the completion). Shorten the prompt or ask for fewer tokens."
            )
            raise RefusedError(Failed(status=400, message=said, code=TOO_LONG, param="messages"))
        return most

    def _group(self, asking: Asking) -> Group:
        """Return where a request is answered: with all others of its base, or alone."""
        base, tokens = asking.served.base, len(asking.prompt_ids) + asking.most
        stream = base.stream if fits(base.model, tokens) else None
        key = (base, stream is not None)
        if key not in self.groups:
            new = Together(stream, self.settings) if stream else Alone(base.model)
            self.groups[key] = new
        return self.groups[key]

    def _hurry(self) -> None:
        """Cut short the requests whose deadline has passed."""
        now = time.monotonic()
        for asking in self._open():
            deadline_s = asking.ask.deadline_s
            if deadline_s is not None and not asking.late and now >= asking.arrived_s + deadline_s:
                given_up = asking.hurry()
                for group in self.groups.values():
                    group.drop(given_up)

    def _open(self) -> list[Asking]:
        return [t.asking for t in self.tickets if t.asking is not None and not t.asking.closed]

    def _step(self, key: tuple[Base, bool], group: Group) -> None:
        """Step a group; what goes wrong there ends its requests, and nobody else's."""
        askings = group.askings()
        if not askings:
            if key[0] not in self.library.bases:
                del self.groups[key]
            return
        try:
            self.written_tokens += group.writing
            group.step()
        except TROUBLE as error:
            for asking in askings:
                asking.fail(Failed(status=500, message=f"{error}", code="generation_failed"))
            del self.groups[key]

    def _score(self) -> None:
        """Score a few responses: of a request that chooses, or of those that only want scores."""
        asking = next((asking for asking in self._open() if asking.unscored), None)
        if asking is not None:
            self._score_replies(asking)
        elif self.scorings and self._score_rows(self.scorings[0]):
            self.scorings.popleft()

    def _score_replies(self, asking: Asking) -> None:
        count = min(SCORED_AT_ONCE, len(asking.unscored))
        replies = [asking.unscored.popleft() for _ in range(count)]
        prompt = Prompt(id="asked", messages=asking.ask.messages, tools=asking.ask.tools)
        rows = [(prompt, (assistant(reply.text),)) for reply in replies]
        try:
            scores = scored(self.library.scorer(asking.ask.reward_model), rows)
        except TROUBLE as error:
            asking.fail(Failed(status=400, message=f"{error}", param="reward_model"))
            return
        for reply, score in zip(replies, scores, strict=True):
            reply.score = score
        asking.conclude()

    def _score_rows(self, scoring: Scoring) -> bool:
        """Score the next responses and return whether all are done."""
        done, rows = len(scoring.scores), scoring.ask.rows
        try:
            scoring.scores += scored(
                self.library.scorer(scoring.ask.reward_model),
                [
                    (
                        Prompt(id=f"row {done + i}", messages=row.messages, tools=row.tools),
                        row.response,
                    )
                    for i, row in enumerate(rows[done : done + SCORED_AT_ONCE])
                ],
            )
        except TROUBLE as error:
            scoring.answer.set_result(Failed(status=400, message=f"{error}"))
            return True
        if len(scoring.scores) < len(rows):
            return False
        scoring.answer.set_result(Scored(scores=tuple(scoring.scores)))
        return True

    def _tell(self) -> None:
        """Send what is new; forget the requests that are done."""
        for ticket in self.tickets:
            asking = ticket.asking
            if asking is not None and asking.lines and not ticket.dropped:
                ticket.send(b"".join(asking.lines), asking.closed)
                asking.lines.clear()
        self.tickets = [
            t for t in self.tickets if not t.dropped and not (t.asking and t.asking.closed)
        ]

    def _in_use(self) -> set[Part]:
        askings = self._open()
        scorers = {asking.ask.reward_model for asking in askings}
        scorers |= {scoring.ask.reward_model for scoring in self.scorings}
        folders: set[Part] = {Path(folder).resolve() for folder in scorers if folder}
        return folders.union(*(asking.served.parts for asking in askings))

    def _health(self) -> Health:
        bases = self.library.bases
        return Health(
            writing=sum(group.writing for group in self.groups.values()),
            waiting=sum(group.waiting for group in self.groups.values()),
            written_tokens=self.written_tokens,
            models=tuple(str(base.folder) for base in bases),
            adapters=tuple(str(folder) for base in bases for folder in base.adapters),
            reward_models=tuple(map(str, self.library.reward_models)),
            weight_bytes=self.library.bytes,
            seconds=time.monotonic() - self.began_s,
        )


def prompt_ids(served: Served, ask: Ask) -> tuple[int, ...]:
    """Return the tokens of a prompt.

    Raises:
        RefusedError: not exactly one prompt, an id the model does not have, or messages that its
            template refuses.
    """
    given = (bool(ask.messages), ask.text is not None, ask.ids is not None)
    if sum(given) != 1 or (ask.reward_model and not ask.messages):
        raise _refused("give one prompt; a reward model takes messages only", "messages")
    try:
        if ask.ids is not None:
            ids = ask.ids
        elif ask.text is not None:
            ids = served.text_ids(ask.text)
        else:
            ids = served.chat.prompt_ids(Prompt(id="asked", messages=ask.messages, tools=ask.tools))
    except TROUBLE as error:
        raise _refused(f"{error}", "messages") from error
    size = served.base.model.get_input_embeddings().weight.shape[0]
    if not ids or not all(0 <= id_ < size for id_ in ids):
        raise _refused(f"the prompt is empty, or holds a token id outside 0..{size - 1}", "prompt")
    return ids


def _refused(message: str, param: str) -> RefusedError:
    return RefusedError(Failed(status=400, message=message, param=param))


def scored(scorer: RewardScorer, rows: Sequence[tuple[Prompt, tuple[Message, ...]]]) -> list[float]:
    """Return the scores of a reward model, which has one for everything."""
    return [0.0 if score is None else score for score in scorer.score(rows)]
