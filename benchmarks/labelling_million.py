"""How long the lead's pages, the queue and the export take beside a million judgments.

    python -m benchmarks.labelling_million --judgments 1000000

Writes a store in a temporary folder (or at --store, a PostgreSQL URL or a path), with a log as long
as labelling would have made it but without its seals, and prints one line per page.
"""

import argparse
import datetime as dt
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update
from starlette.testclient import TestClient

from preftune.progress import progress
from preftune.serving.app import create_app
from preftune.serving.security import csrf_token
from preftune.serving.settings import ServerSettings
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.projects import ProjectSettings
from preftune.store.queue import next_task
from preftune.store.schema import events, items, judgments
from preftune.store.schema import projects as projects_table
from preftune.store.snapshots import Policy, freeze, snapshots_of
from preftune.types import Comparison, Response, assistant, content_id, make_prompt, user

RATERS, PER_ITEM, MANY = 30, 3, 20_000
NOBODY_KNOWS = "-"  # no password has this hash
SPARE = 200  # items that nobody has judged yet
OFFSET = 1000  # events of the import come before those of labelling
ORIGIN = "http://127.0.0.1:8000"
START = dt.datetime.now(dt.UTC) - dt.timedelta(days=12)
PAGES = ("/items", "/items?search=number+333", "/adjudication", "/raters", "/datasets", "/log")
TEXT = "Wash it by hand in cold water, with a little mild soap, and let it dry flat. " * 4


def main() -> None:
    """Fill a store and time what people do with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgments", type=int, default=1_000_000)
    parser.add_argument("--store", default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = asked.store or str(Path(folder) / "million.db")
        with Database(store, files=Path(folder) / "files") as database:
            project_id, raters = fill(database, asked.judgments)
            for name, seconds in timed(database, project_id, raters):
                print(f"{seconds:9.3f} s  {name}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak_mib:9.0f} MiB  peak memory of the process")


def fill(database: Database, count: int) -> tuple[str, list[str]]:
    """Make a project of so many judgments and return its id and its raters."""

    def begin(db: Connection) -> tuple[str, list[str]]:
        ids = [
            people.add_person(
                db, email=f"r{n}@example.org", name="Nobody", password_hash=NOBODY_KNOWS
            )
            for n in range(RATERS)
        ]
        settings = ProjectSettings(raters_per_item=PER_ITEM)
        made = projects.create_project(db, name="Million", settings=settings, by=ids[0])
        for n, who in enumerate(ids):
            projects.add_member(db, made, who, "rater" if n else "lead", by=ids[0])
        return made, ids

    project_id, raters = database.write(begin)
    total = count // PER_ITEM
    with progress("items", total + SPARE) as step:
        for first in range(0, total + SPARE, MANY):
            some = range(first, min(first + MANY, total + SPARE))
            new = [of_comparison(comparison(number)) for number in some]
            database.write(partial(add_items, project_id=project_id, new=new, by=raters[0]))
            step(len(some))
    with progress("judgments", total * PER_ITEM) as step:
        for first in range(1, total + 1, MANY // PER_ITEM):
            places = range(first, min(first + MANY // PER_ITEM, total + 1))
            database.write(partial(judge, project_id=project_id, raters=raters, places=places))
            step(len(places) * PER_ITEM)
    return project_id, raters


def judge(db: Connection, project_id: str, raters: list[str], places: range) -> int:
    """Let three raters judge the items at these places, as labelling would write it."""
    draw = random.Random(places.start)
    here = (items.c.project_id == project_id, items.c.position.in_(places))
    found = db.execute(select(items.c.id, items.c.position).where(*here)).all()
    said, told, ended = [], [], []
    for row in found:
        grades = []
        for number, who in enumerate(draw.sample(raters, PER_ITEM)):
            seq = 2 * ((row.position - 1) * PER_ITEM + number) + OFFSET
            right, swapped = draw.random() < 0.85, draw.random() < 0.5
            grade = draw.choice((1, 2, 3, 4) if right == bool(row.position % 2) else (7, 6, 5, 4))
            grades.append(grade)
            shown = "1,0" if swapped else "0,1"
            value = {"kind": "scale", "grade": 8 - grade if swapped else grade}
            at = moment(seq)
            common = {"project_id": project_id, "item_id": row.id, "user_id": who, "at": at}
            said.append({**common, **verdict(seq, value, shown, draw.lognormvariate(3.2, 0.4))})
            shown_data = {"shown": [int(p) for p in shown.split(",")], "round": 0, "guideline": 0}
            voted = {**shown_data, "verdicts": {"overall": value}, "seconds": 20.0}
            told.append({**common, **event(seq, "shown", f"shown:{row.id}:0", shown_data)})
            told.append({**common, **event(seq + 1, "voted", f"vote-{seq}", voted)})
        split = 0.0 if len({(g > 4) - (g < 4) for g in grades}) == 1 else 1 / 3
        ended.append({"key": row.id, "split": split})
    db.execute(insert(judgments), said)
    db.execute(insert(events), told)
    done = update(items).where(items.c.id == bindparam("key"))
    db.execute(done.values(votes=PER_ITEM, state="done", disagreement=bindparam("split")), ended)
    last = update(projects_table).where(projects_table.c.id == project_id)
    db.execute(last.values(last_seq=told[-1]["seq"]))
    return len(said)


def verdict(seq: int, value: dict[str, object], shown: str, seconds: float) -> dict[str, object]:
    """Return the columns of one judgment."""
    return {
        "id": content_id("j", seq),
        "seq": seq + 1,
        "round": 0,
        "dimension": "overall",
        "kind": "scale",
        "value": msgspec.json.encode(value).decode(),
        "shown": shown,
        "why": "",
        "guideline": 0,
        "seconds": seconds,
        "settles": False,
        "live": True,
    }


def event(seq: int, type: str, key: str, data: dict[str, object]) -> dict[str, object]:
    """Return the columns of one event; its seal is none."""
    text = msgspec.json.encode(data).decode()
    return {"seq": seq, "type": type, "key": key, "data": text, "hash": "0" * 64}


def moment(seq: int) -> str:
    """Return when an event happened: two a second, the first events longest ago."""
    at = START + dt.timedelta(seconds=seq / 2)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def comparison(number: int) -> Comparison:
    """Return one of many comparisons."""
    prompt = make_prompt(user(f"How do I wash number {number}?"))
    responses = tuple(
        Response(id=f"r{number}{name}", prompt_id=prompt.id, messages=(assistant(name + TEXT),))
        for name in "ab"
    )
    return Comparison(id=f"c{number}", prompt=prompt, responses=responses)


def timed(database: Database, project_id: str, raters: list[str]) -> Iterator[tuple[str, float]]:
    """Yield what was done and how long it took, in seconds."""
    token = database.write(lambda db: people.open_session(db, raters[0], now_s=time.time()))
    app = create_app(database, settings=ServerSettings())
    headers = {"Origin": ORIGIN, "X-CSRF-Token": csrf_token(token), "Accept": "text/html"}
    with TestClient(app, base_url=ORIGIN, headers=headers) as client:
        client.cookies.set("preftune", token)
        get = partial(page, client, f"/p/{project_id}/lead")
        for who in raters[1:4]:
            task = partial(next_task, project_id=project_id, user_id=who)
            yield "next item of a rater", took(partial(database.write, task))
        yield "overview, all counted", took(partial(get, ""))
        yield "overview again, agreement kept", took(partial(get, ""))
        for tail in PAGES:
            yield f"page {tail}", took(partial(get, tail))
        yield "page of a rater, with what would change", took(partial(get, f"/raters/{raters[1]}"))
        for policy in get_args(Policy):
            made = partial(freeze, database, project_id, name=policy, policy=policy, by=raters[0])
            yield f"freeze, policy {policy}", took(made)
        with database.read() as db:
            frozen = snapshots_of(db, project_id)[0]
        rows, tail = frozen.manifest["rows"], f"/datasets/{frozen.hash}"
        yield "page of the dataset", took(partial(get, tail))
        yield f"where line {rows:,} comes from", took(partial(get, f"{tail}/rows/{rows}"))
        yield f"download of {rows:,} rows", took(partial(get, f"{tail}/file"))


def page(client: TestClient, base: str, tail: str) -> None:
    """Fetch a page, whole.

    Raises:
        RuntimeError: it was refused.
    """
    answer = client.get(base + tail)
    if answer.status_code != 200:
        raise RuntimeError(f"{tail}: {answer.status_code} {answer.text[:500]}")


def took(work: Callable[[], object]) -> float:
    """Return how many seconds something took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
