"""A store as labelling by thirty raters would have left it, written in bulk: the log is chained."""

import datetime as dt
import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from preftune.progress import progress
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.projects import ProjectSettings
from preftune.store.schema import events, items, judgments, members
from preftune.store.schema import projects as projects_table
from preftune.types import Comparison, Response, assistant, content_id, make_prompt, user

RATERS, PER_ITEM, MANY = 30, 3, 9_000
NOBODY_KNOWS = "-"  # no password has this hash
SPARE = 200  # items that nobody has judged yet
DAYS = 12.0  # the log's length
TEXT = "Wash it by hand in cold water, with a little mild soap, and let it dry flat. " * 4


@dataclass(kw_only=True)
class Writer:
    """Where the log of the project has got to."""

    project_id: str
    raters: list[str]
    total: int  # events that will be written
    seq: int = 0
    seal: str = ""
    began: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    judged: Counter[str] = field(default_factory=Counter)

    def event(self, **fields: Any) -> dict[str, Any]:
        """Return the row of the next event, sealed."""
        self.seq += 1
        row = {**fields, "project_id": self.project_id, "seq": self.seq, "at": self.moment()}
        text = self.seal.encode() + b"\n" + msgspec.json.encode(row, order="sorted")
        self.seal = hashlib.sha256(text).hexdigest()
        return {**row, "hash": self.seal}

    def moment(self) -> str:
        """Return when the next event happened: evenly over the days up to now."""
        ago = dt.timedelta(days=DAYS * max(0.0, 1 - self.seq / self.total))
        return (self.began - ago).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fill(database: Database, count: int) -> tuple[str, list[str]]:
    """Make a project of so many judgments and return its id and its raters."""
    project_id, raters = database.write(_begin)
    total = count // PER_ITEM
    with progress("items", total + SPARE) as step:
        for first in range(0, total + SPARE, MANY):
            some = range(first, min(first + MANY, total + SPARE))
            new = [of_comparison(comparison(number)) for number in some]
            added = partial(add_items, project_id=project_id, new=new, by=raters[0])
            database.submit(added).result()
            step(len(some))
    writer = database.write(lambda db: _writer(db, project_id, raters, count))
    with progress("judgments", total * PER_ITEM) as step:
        for first in range(1, total + 1, MANY // PER_ITEM):
            places = range(first, min(first + MANY // PER_ITEM, total + 1))
            database.submit(partial(_judge, writer=writer, places=places)).result()
            step(len(places) * PER_ITEM)
    database.submit(partial(_end, writer=writer)).result()
    return project_id, raters


def comparison(number: int) -> Comparison:
    """Return one of many comparisons."""
    prompt = make_prompt(user(f"How do I wash number {number}?"))
    responses = tuple(
        Response(id=f"r{number}{name}", prompt_id=prompt.id, messages=(assistant(name + TEXT),))
        for name in "ab"
    )
    return Comparison(id=f"c{number}", prompt=prompt, responses=responses)


def _begin(db: Connection) -> tuple[str, list[str]]:
    ids = [
        people.add_person(db, email=f"r{n}@example.org", name="Nobody", password_hash=NOBODY_KNOWS)
        for n in range(RATERS)
    ]
    settings = ProjectSettings(raters_per_item=PER_ITEM)
    made = projects.create_project(db, name="Million", settings=settings, by=ids[0])
    for n, who in enumerate(ids):
        projects.add_member(db, made, who, "rater" if n else "lead", by=ids[0])
    return made, ids


def _writer(db: Connection, project_id: str, raters: list[str], count: int) -> Writer:
    row = db.execute(select(projects_table).where(projects_table.c.id == project_id)).one()
    total = row.last_seq + 2 * count
    return Writer(
        project_id=project_id, raters=raters, total=total, seq=row.last_seq, seal=row.last_hash
    )


def _judge(db: Connection, writer: Writer, places: range) -> None:
    """Let three raters judge the items at these places, as labelling would write it."""
    here = (items.c.project_id == writer.project_id, items.c.position.in_(places))
    found = db.execute(select(items.c.id, items.c.position).where(*here)).all()
    draw = random.Random(places.start)
    said, told, ended = [], [], []
    for row in sorted(found, key=lambda row: row.position):
        grades = []
        for who in draw.sample(writer.raters, PER_ITEM):
            right = draw.random() < 0.85
            grades.append(
                draw.choice((1, 2, 3, 4) if right == bool(row.position % 2) else (7, 6, 5, 4))
            )
            swapped, seconds = draw.random() < 0.5, draw.lognormvariate(3.2, 0.4)
            judgment, shown_and_voted = _said(writer, row.id, who, grades[-1], swapped, seconds)
            said.append(judgment)
            told += shown_and_voted
        split = 0.0 if len({(g > 4) - (g < 4) for g in grades}) == 1 else 1 / 3
        ended.append({"key": row.id, "split": split})
    db.execute(insert(judgments), said)
    db.execute(insert(events), told)
    done = update(items).where(items.c.id == bindparam("key"))
    db.execute(done.values(votes=PER_ITEM, state="done", disagreement=bindparam("split")), ended)


def _said(
    writer: Writer, item_id: str, who: str, grade: int, swapped: bool, seconds: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the judgment of one rater and the two events it comes with."""
    value = {"kind": "scale", "grade": 8 - grade if swapped else grade}
    shown = {"shown": [1, 0] if swapped else [0, 1], "round": 0, "guideline": 0}
    voted = {**shown, "verdicts": {"overall": value}, "seconds": seconds}
    common = {"user_id": who, "item_id": item_id}
    logged = [
        writer.event(type="shown", key=f"shown:{item_id}:0", data=_json(shown), **common),
        writer.event(type="voted", key=f"{who}:{item_id}", data=_json(voted), **common),
    ]
    writer.judged[who] += 1
    judgment = {
        **common,
        "id": content_id("j", writer.seq),
        "project_id": writer.project_id,
        "seq": writer.seq,
        "round": 0,
        "dimension": "overall",
        "kind": "scale",
        "value": _json(value),
        "shown": "1,0" if swapped else "0,1",
        "why": "",
        "guideline": 0,
        "seconds": seconds,
        "settles": False,
        "live": True,
        "at": logged[-1]["at"],
    }
    return judgment, logged


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _end(db: Connection, writer: Writer) -> None:
    """Write what the store keeps beside the log: its end, and how far the work is."""
    here = update(projects_table).where(projects_table.c.id == writer.project_id)
    db.execute(here.values(last_seq=writer.seq, last_hash=writer.seal))
    projects.recount_items(db, writer.project_id)
    mine = update(members).where(
        members.c.project_id == writer.project_id, members.c.user_id == bindparam("who")
    )
    db.execute(
        mine.values(judged=bindparam("times")),
        [{"who": who, "times": times} for who, times in writer.judged.items()],
    )
