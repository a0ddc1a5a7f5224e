"""The rater's page and what it asks the server for.

Every request that writes carries a key of the page's own: sent again, it changes nothing and gets
the answer of the first. An answer goes out after the commit, never before. What a rater sends is
written, authorised and answered with their next item in one transaction.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from preftune.errors import StoreError
from preftune.serving.auth import InProject, Store, enter, member_of
from preftune.serving.rater_history import Earlier, Pace, history, pace, verdicts_of
from preftune.serving.rater_said import Flagged, Said, Skipped, Undo, vote_of
from preftune.serving.rater_view import Rendered, ShownTask, rendered, shown_task
from preftune.serving.safe_markdown import Tree, safe_markdown
from preftune.serving.web import IdempotencyKey, page
from preftune.store import events, labels
from preftune.store.database import Database
from preftune.store.items import Verdict, item
from preftune.store.projects import Progress, guideline, project
from preftune.store.queue import task_again, work_for

T = TypeVar("T")


class MembersOnly(APIRoute):
    """Tells nobody but members what is wrong with a request: they are asked for first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request to the route."""
        handle = super().get_route_handler()

        async def members_only(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                await run_in_threadpool(member_of, request, request.path_params["project_id"])
                raise

        return members_only


router = APIRouter(prefix="/p/{project_id}/label", tags=["label"], route_class=MembersOnly)


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
    """The request is on disk, and what is before the rater now."""

    again: bool  # it had come before
    next: Work
    feedback: tuple[Feedback, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Revised:
    """Other verdicts are on disk."""

    again: bool  # they were before


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownGuideline:
    """The guideline that holds: its text, and the same as Markdown."""

    version: int
    text: str
    tree: Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where a rater sits: the store and the project. Who it is, each transaction finds out."""

    request: Request
    database: Database
    project_id: str

    async def write(self, work: Callable[[Connection, str], T]) -> T:
        """Return the result of a write, given who asks, once it is committed.

        A client that goes away in between takes nothing back.

        Raises:
            HTTPException: 401, or 404 for anybody but a member; then nothing is written.
        """
        done = self.database.submit(lambda db: work(db, self._enter(db)))
        return await asyncio.shield(asyncio.wrap_future(done))

    async def read(self, work: Callable[[Connection, str], T]) -> T:
        """Return the result of a read, made in another thread.

        Raises:
            HTTPException: 401, or 404 for anybody but a member.
        """

        def run() -> T:
            with self.database.read() as db:
                return work(db, self._enter(db))

        return await run_in_threadpool(run)

    def _enter(self, db: Connection) -> str:
        return enter(self.request, db, self.project_id).person.id


async def desk(request: Request, project_id: str) -> Desk:
    """Return the place of whoever asks."""
    database: Database = request.app.state.database
    return Desk(request=request, database=database, project_id=project_id)


At = Annotated[Desk, Depends(desk)]


@router.get("", response_class=HTMLResponse, include_in_schema=False)
def show_page(request: Request, member: InProject, store: Store) -> Response:
    """Return the page; all it shows comes from the routes below."""
    with store.read() as db:
        where = project(db, member.project_id)
    return page(request, "rater.html.jinja", project=where, user_id=member.person.id)


@router.get("/next", response_model=Work)
async def next_(at: At) -> Response:
    """Return the item before this rater; one that they have not answered comes again."""
    return _json(await at.write(lambda db, me: _work(db, at, me)))


@router.get("/item/{item_id}/{round}")
async def again(at: At, item_id: str, round: int) -> Again:
    """Return an item that was shown to this rater, and what they said of it."""
    return await at.read(lambda db, me: _again(db, at, me, item_id, round))


@router.get("/markdown/{item_id}/{round}")
async def markdown(at: At, item_id: str, round: int) -> Rendered:
    """Return the texts of an item that was shown to this rater, as Markdown."""
    return await at.read(lambda db, me: rendered(task_again(db, at.project_id, me, item_id, round)))


@router.post("/vote", response_model=Saved)
async def vote(at: At, said: Said, key: IdempotencyKey) -> Response:
    """Record verdicts on an item, and return the next."""

    def work(db: Connection, me: str) -> Saved:
        answer = labels.vote(db, at.project_id, me, vote_of(said, key))
        feedback = _feedback(db, at, said.item_id, answer)
        return Saved(again=answer.again, feedback=feedback, next=_work(db, at, me))

    return _json(await at.write(work))


@router.post("/revise")
async def revise(at: At, said: Said, key: IdempotencyKey) -> Revised:
    """Replace one's own verdicts on an item."""

    def work(db: Connection, me: str) -> Revised:
        _refuse_calibration(db, at, said.item_id)
        return Revised(again=labels.revise(db, at.project_id, me, vote_of(said, key)).again)

    return await at.write(work)


@router.post("/undo")
async def undo(at: At, _asked: Undo, key: IdempotencyKey) -> Again:
    """Take back the last verdict, and return its item, which is before the rater again."""

    def work(db: Connection, me: str) -> Again:
        item_id = labels.undo(db, at.project_id, me, key)
        _refuse_calibration(db, at, item_id)
        event = events.find(db, at.project_id, me, key)
        return _again(db, at, me, item_id, event.data.get("round", 0) if event else 0)

    return await at.write(work)


@router.post("/skip", response_model=Saved)
async def skip(at: At, asked: Skipped, key: IdempotencyKey) -> Response:
    """Leave an item to others, and return the next."""

    def work(db: Connection, me: str) -> Saved:
        came = labels.skip(db, at.project_id, me, item_id=asked.item_id, key=key)
        return Saved(again=came, next=_work(db, at, me))

    return _json(await at.write(work))


@router.post("/flag", response_model=Saved)
async def flag(at: At, asked: Flagged, key: IdempotencyKey) -> Response:
    """Tell the lead what is wrong with an item, leave it to others, and return the next."""

    def work(db: Connection, me: str) -> Saved:
        came = labels.flag(db, at.project_id, me, item_id=asked.item_id, key=key, why=asked.why)
        return Saved(again=came, next=_work(db, at, me))

    return _json(await at.write(work))


@router.get("/history")
async def earlier(at: At) -> list[Earlier]:
    """Return one's own last fifty verdicts, newest first."""
    return await at.read(lambda db, me: history(db, at.project_id, me))


@router.get("/guideline")
async def current_guideline(at: At) -> ShownGuideline:
    """Return the guideline that holds now."""
    found = await at.read(lambda db, _: guideline(db, at.project_id))
    return ShownGuideline(version=found.version, text=found.text, tree=safe_markdown(found.text))


def _work(db: Connection, at: Desk, user_id: str) -> Work:
    task, place = work_for(db, at.project_id, user_id)
    return Work(
        task=None if task is None else shown_task(task, place.project),
        progress=place.progress,
        pace=pace(db, at.project_id, user_id),
        break_minutes=place.project.settings.break_minutes,
    )


def _again(db: Connection, at: Desk, user_id: str, item_id: str, round: int) -> Again:
    task = task_again(db, at.project_id, user_id, item_id, round)
    return Again(
        task=shown_task(task, project(db, at.project_id)),
        said=verdicts_of(db, at.project_id, user_id, item_id, round),
    )


def _feedback(
    db: Connection, at: Desk, item_id: str, answer: labels.Answer
) -> tuple[Feedback, ...]:
    gold = item(db, at.project_id, item_id).gold if answer.expected else {}
    return tuple(
        Feedback(
            dimension=dimension,
            right=answer.right[dimension],
            expected=expected,
            why=str(gold[dimension].get("why", "")),
        )
        for dimension, expected in answer.expected.items()
    )


def _json(value: object) -> Response:
    """Return an answer as it is, without the framework's own look at every field of it."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def _refuse_calibration(db: Connection, at: Desk, item_id: str) -> None:
    """Let a calibration verdict stand: the right answer was shown after it."""
    if item(db, at.project_id, item_id).use == "calibration":
        raise StoreError(
            "calibration: the expected answer has been shown, so this verdict stays. Go on."
        )
