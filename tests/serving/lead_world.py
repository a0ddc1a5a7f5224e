"""A project with items, verdicts and a guideline, for tests of the lead's pages."""

import random
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from httpx2 import Response as Answer
from starlette.testclient import TestClient

from preftune.records import encode
from preftune.store.adjudication import Wanted, list_items
from preftune.store.database import Database
from preftune.store.items import Item, add_items, of_comparison
from preftune.store.labels import Vote, flag, vote
from preftune.store.queue import Task, next_task
from preftune.types import Comparison, Response, Sampling, assistant, make_prompt, text_of, user

if TYPE_CHECKING:
    from tests.serving.conftest import App

SENT_HTML = {"Accept": "text/html"}
SECRET_NAMES = ("model-good", "model-bad")


def comparison(number: int) -> Comparison:
    """Return a comparison whose first response is the good one."""
    prompt = make_prompt(user(f"Question {number}: what now?"), source="desk.jsonl", origin="log")
    responses = tuple(
        Response(
            id=f"r{number}{name}",
            prompt_id=prompt.id,
            messages=(assistant(f"{name} answer {number}"),),
            generator=f"model-{name}",
            sampling=Sampling(temperature=0.7, max_new_tokens=64, seed=1000 + number),
            origin="sampled",
        )
        for name in ("good", "bad")
    )
    return Comparison(id=f"c{number}", prompt=prompt, responses=responses)


def lines(first: int, count: int) -> list[str]:
    return [encode(comparison(n)).decode().rstrip() for n in range(first, first + count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Click:
    """One verdict of a rater, in words of the comparison as imported."""

    who: str  # user id
    good: bool | None  # the good response is better; None: a tie
    strength: int = 2
    why: str = ""


def judge(database: Database, project_id: str, click: Click) -> Task | None:
    """Take the next item of a rater and judge it; None: nothing left."""
    task = database.write(lambda db: next_task(db, project_id, click.who))
    if task is None:
        return None
    first_is_good = text_of(task.content.responses[0].messages).startswith("good")
    signed = (
        0 if click.good is None else click.strength * (1 if click.good == first_is_good else -1)
    )
    said = Vote(
        key=uuid.uuid4().hex,
        item_id=task.item_id,
        round=task.round,
        verdicts={"overall": {"kind": "scale", "grade": 4 - signed}},
        why={"overall": click.why} if click.why else {},
        seconds=12.0,
    )
    database.write(lambda db: vote(db, project_id, click.who, said))
    return task


def fill(database: Database, project_id: str, by: str, *, items: int) -> None:
    """Import comparisons c0, c1, …"""
    new = [of_comparison(comparison(number)) for number in range(items)]
    database.write(lambda db: add_items(db, project_id, new, by=by))


def items_of(database: Database, project_id: str) -> dict[str, Item]:
    """Return the items by the id of their comparison."""
    with database.read() as db:
        return {it.comparison_id: it for it in list_items(db, project_id, Wanted(), count=1000)}


def crowd(database: Database, project_id: str, raters: list[str], *, seed: int = 0) -> None:
    """Let raters judge all there is: mostly right, some ties, some reasons."""
    draw = random.Random(seed)
    for who in raters:
        while judge(database, project_id, _drawn(draw, who)) is not None:
            pass


def _drawn(draw: random.Random, who: str) -> Click:
    fate = draw.random()
    good = None if fate < 0.1 else fate < 0.8
    why = "says what to do next" if draw.random() < 0.2 else ""
    return Click(who=who, good=good, strength=draw.randint(1, 3), why=why)


def complain(database: Database, project_id: str, who: str, item_id: str, why: str) -> None:
    """Let a rater flag an item."""
    database.write(
        partial(flag, project_id=project_id, user_id=who, item_id=item_id, key="flag-1", why=why)
    )


class Lead:
    """A lead's client that knows the project."""

    def __init__(self, app: "App", role: str = "lead") -> None:
        self.app = app
        self.client: TestClient = app.client(role)
        self.base = f"/p/{app.cast.project_id}/lead"

    def page(self, tail: str = "") -> str:
        answer = self.client.get(self.base + tail, headers=SENT_HTML)
        assert answer.status_code == 200, answer.text
        return str(answer.text)

    def get(self, tail: str) -> Answer:
        return self.client.get(self.base + tail)

    def post(self, tail: str, body: dict[str, Any] | None = None, *, key: str = "") -> Answer:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self.client.post(self.base + tail, json=body or {}, headers=headers)

    def done(self, tail: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.post(tail, body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def refused(self, tail: str, body: dict[str, Any] | None = None) -> str:
        answer = self.post(tail, body)
        assert answer.status_code in (409, 422), answer.text
        return str(answer.json()["error"]["message"])
