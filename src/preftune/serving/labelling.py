"""The rater's page and what it asks the server for.

Every request that writes carries a key of the page's own: sent again, it changes nothing and gets
the answer of the first. An answer goes out after the commit, never before.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from preftune.errors import StoreError
from preftune.serving.auth import InProject, Store
from preftune.serving.rater_history import Earlier, Pace, history, pace, verdicts_of
from preftune.serving.rater_said import Flagged, Said, Skipped, Undo, vote_of
from preftune.serving.rater_view import Rendered, ShownTask, rendered, shown_task
from preftune.serving.safe_markdown import Tree, safe_markdown
from preftune.serving.web import IdempotencyKey, page
from preftune.store import events, labels
from preftune.store.database import Database
from preftune.store.items import Verdict, item
from preftune.store.projects import guideline, project
from preftune.store.queue import Progress, counts, done_by, next_task, task_again

router = APIRouter(prefix="/p/{project_id}/label", tags=["label"])
T = TypeVar("T")
LONG_S, FRESH_S = 0.005, 2.0
_COUNTS: WeakKeyDictionary[Database, dict[str, tuple[tuple[int, int], float]]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is before a rater, none when nothing is left, and how far they are."""

    task: ShownTask | None
    progress: Progress
    pace: Pace
    break_minutes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """An item that was shown before, and what was said of it, if that stands."""

    task: ShownTask
    said: Earlier | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """On a calibration item: whether a verdict takes the expected side, and why it should."""

    dimension: str
    right: bool
    expected: Verdict  # as shown
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """The request is on disk."""

    again: bool = False  # it had come before
    feedback: tuple[Feedback, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownGuideline:
    """The guideline that holds: its text, and the same as Markdown."""

    version: int
    text: str
    tree: Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where a rater sits: the store, the project, and who they are."""

    database: Database
    project_id: str
    user_id: str

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return the result of a write once it is committed.

        A client that goes away in between takes nothing back.
        """
        return await asyncio.shield(asyncio.wrap_future(self.database.submit(work)))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return the result of a read, made in another thread."""

        def run() -> T:
            with self.database.read() as db:
                return work(db)

        return await run_in_threadpool(run)


def desk(database: Store, member: InProject) -> Desk:
    """Return the place of whoever asks; anybody but a member gets 404."""
    return Desk(database=database, project_id=member.project_id, user_id=member.person.id)


At = Annotated[Desk, Depends(desk)]


@router.get("", response_class=HTMLResponse, include_in_schema=False)
async def show_page(request: Request, at: At) -> Response:
    """Return the page; all it shows comes from the routes below."""
    where = await at.read(lambda db: project(db, at.project_id))
    return page(request, "rater.html.jinja", project=where, user_id=at.user_id)


@router.get("/next")
async def next_(at: At) -> Work:
    """Return the item before this rater; one that they have not answered comes again."""
    task, where = await at.write(
        lambda db: (next_task(db, at.project_id, at.user_id), project(db, at.project_id))
    )
    done, speed = await at.read(lambda db: (_progress(db, at), pace(db, at.project_id, at.user_id)))
    return Work(
        task=None if task is None else shown_task(task, where),
        progress=done,
        pace=speed,
        break_minutes=where.settings.break_minutes,
    )


@router.get("/item/{item_id}/{round}")
async def again(at: At, item_id: str, round: int) -> Again:
    """Return an item that was shown to this rater, and what they said of it."""
    return await at.read(lambda db: _again(db, at, item_id, round))


@router.get("/markdown/{item_id}/{round}")
async def markdown(at: At, item_id: str, round: int) -> Rendered:
    """Return the texts of an item that was shown to this rater, as Markdown."""
    return await at.read(
        lambda db: rendered(task_again(db, at.project_id, at.user_id, item_id, round))
    )


@router.post("/vote")
async def vote(at: At, said: Said, key: IdempotencyKey) -> Saved:
    """Record verdicts on an item."""
    return await at.write(lambda db: _save(db, at, vote_of(said, key), labels.vote))


@router.post("/revise")
async def revise(at: At, said: Said, key: IdempotencyKey) -> Saved:
    """Replace one's own verdicts on an item."""

    def work(db: Connection) -> Saved:
        _refuse_calibration(db, at, said.item_id)
        return _save(db, at, vote_of(said, key), labels.revise)

    return await at.write(work)


@router.post("/undo")
async def undo(at: At, _asked: Undo, key: IdempotencyKey) -> Again:
    """Take back the last verdict, and return its item, which is before the rater again."""

    def work(db: Connection) -> Again:
        item_id = labels.undo(db, at.project_id, at.user_id, key)
        _refuse_calibration(db, at, item_id)
        event = events.find(db, at.project_id, at.user_id, key)
        return _again(db, at, item_id, event.data.get("round", 0) if event else 0)

    return await at.write(work)


@router.post("/skip")
async def skip(at: At, asked: Skipped, key: IdempotencyKey) -> Saved:
    """Leave an item to others."""

    def work(db: Connection) -> Saved:
        labels.skip(db, at.project_id, at.user_id, item_id=asked.item_id, key=key)
        return Saved()

    return await at.write(work)


@router.post("/flag")
async def flag(at: At, asked: Flagged, key: IdempotencyKey) -> Saved:
    """Tell the lead what is wrong with an item, and leave it to others."""

    def work(db: Connection) -> Saved:
        labels.flag(db, at.project_id, at.user_id, item_id=asked.item_id, key=key, why=asked.why)
        return Saved()

    return await at.write(work)


@router.get("/history")
async def earlier(at: At) -> list[Earlier]:
    """Return one's own last fifty verdicts, newest first."""
    return await at.read(lambda db: history(db, at.project_id, at.user_id))


@router.get("/guideline")
async def current_guideline(at: At) -> ShownGuideline:
    """Return the guideline that holds now."""
    found = await at.read(lambda db: guideline(db, at.project_id))
    return ShownGuideline(version=found.version, text=found.text, tree=safe_markdown(found.text))


def _progress(db: Connection, at: Desk) -> Progress:
    """Return how far a rater and the project are.

    The project's part is counted anew each time, unless that takes long: then it serves a while.
    """
    kept = _COUNTS.setdefault(at.database, {})
    counted, stale_s = kept.get(at.project_id, ((0, 0), 0.0))
    began_s = time.monotonic()
    if began_s > stale_s:
        counted = counts(db, at.project_id)
        took_s = time.monotonic() - began_s
        kept[at.project_id] = (counted, began_s + (FRESH_S if took_s > LONG_S else 0.0))
    mine = done_by(db, at.project_id, at.user_id)
    return Progress(done_by_me=mine, done=counted[0], total=counted[1])


def _again(db: Connection, at: Desk, item_id: str, round: int) -> Again:
    task = task_again(db, at.project_id, at.user_id, item_id, round)
    return Again(
        task=shown_task(task, project(db, at.project_id)),
        said=verdicts_of(db, at.project_id, at.user_id, item_id, round),
    )


def _save(
    db: Connection,
    at: Desk,
    said: labels.Vote,
    how: Callable[[Connection, str, str, labels.Vote], labels.Answer],
) -> Saved:
    answer = how(db, at.project_id, at.user_id, said)
    gold = item(db, at.project_id, said.item_id).gold if answer.expected else {}
    feedback = (
        Feedback(
            dimension=dimension,
            right=answer.right[dimension],
            expected=expected,
            why=str(gold[dimension].get("why", "")),
        )
        for dimension, expected in answer.expected.items()
    )
    return Saved(again=answer.again, feedback=tuple(feedback))


def _refuse_calibration(db: Connection, at: Desk, item_id: str) -> None:
    """Let a calibration verdict stand: the right answer was shown after it."""
    if item(db, at.project_id, item_id).use == "calibration":
        raise StoreError(
            "calibration: the expected answer has been shown, so this verdict stays. Go on."
        )
