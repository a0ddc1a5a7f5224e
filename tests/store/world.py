"""A small project that tests of the store work in."""

import uuid
from functools import partial
from typing import Any

from sqlalchemy import Connection, insert

from preftune.store import events
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.labels import Answer, Vote, vote
from preftune.store.projects import ProjectSettings, Role, add_member, create_project
from preftune.store.queue import Task, next_task
from preftune.store.schema import users
from preftune.store.snapshots import Judged, judged
from preftune.types import Comparison, Response, assistant, make_prompt, user


class World:
    """A project in a store, with short ways to do what a test does often."""

    def __init__(self, store: Database, *, raters: tuple[str, ...] = ("ann", "bob")) -> None:
        self.store, self.raters = store, raters
        for name in ("lead", *raters, "eve"):
            row = {"id": name, "email": f"{name}@example.org", "name": name}
            store.write(partial(add_user, row=row))
        self.project = self.new_project("first")

    def new_project(self, name: str, **settings: Any) -> str:
        made = ProjectSettings(**settings)
        project_id = self.store.write(
            lambda db: create_project(db, name=name, settings=made, by="lead")
        )
        for person in ("lead", *self.raters):
            role: Role = "lead" if person == "lead" else "rater"
            self.store.write(
                partial(add_member, project_id=project_id, user_id=person, role=role, by="lead")
            )
        return project_id

    def add(self, count: int, *, first: int = 0, **fields: Any) -> None:
        numbers = range(first, first + count)
        new = [of_comparison(comparison(number), **fields) for number in numbers]
        self.store.write(lambda db: add_items(db, self.project, new, by="lead"))

    def next(self, who: str) -> Task:
        task = self.next_or_none(who)
        assert task is not None
        return task

    def next_or_none(self, who: str) -> Task | None:
        return self.store.write(lambda db: next_task(db, self.project, who))

    def judged(self) -> Judged:
        with self.store.read() as db:
            return judged(db, self.project)

    def types(self) -> list[str]:
        with self.store.read() as db:
            return [event.type for event in events.log(db, self.project)]

    def say(self, who: str, task: Task, grade: int = 2, *, key: str = "", **fields: Any) -> Answer:
        said = Vote(
            key=key or uuid.uuid4().hex,
            item_id=task.item_id,
            round=task.round,
            verdicts={"overall": {"kind": "scale", "grade": grade}},
            **fields,
        )
        return self.store.write(lambda db: vote(db, self.project, who, said))


def add_user(db: Connection, *, row: dict[str, str]) -> None:
    values = {**row, "password_hash": "-", "is_admin": False, "created_at": "-"}
    db.execute(insert(users).values(**values))


def comparison(number: int) -> Comparison:
    prompt = make_prompt(user(f"question {number}"))
    responses = tuple(
        Response(
            id=f"r{number}{side}",
            prompt_id=prompt.id,
            messages=(assistant(f"{side} answer {number}"),),
            generator=f"model-{side}",
        )
        for side in ("good", "bad")
    )
    return Comparison(id=f"c{number}", prompt=prompt, responses=responses)
