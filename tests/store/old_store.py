"""A store as the first version of the tables had it, with many labels, written by plain SQL."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, Table, column, select, table

from preftune.store.migrate import FOLDER

FIRST = "0001"
AT = "2026-01-01T00:00:00.000Z"
RATERS = tuple(f"rater-{n:02}" for n in range(20))
LEFT_OPEN, SETTLED, WITHDRAWN, GOLD = 5, 7, 11, 13  # every so many items; the first that fits
TAKEN_BACK = 17  # every so many labels


@dataclass(kw_only=True)
class Expected:
    """What the counts of the newer tables have to be."""

    open: int = 0
    done: int = 0
    judged: Counter[str] = field(default_factory=Counter)


def upgrade_to_first(db: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = db
    command.upgrade(config, FIRST)


def fill(engine: Engine, labels: int) -> Expected:
    """Make the tables of the first version and write so many labels, two to an item."""
    expected = Expected()
    with engine.begin() as db:
        upgrade_to_first(db)
        found = MetaData()
        found.reflect(db)
        tables = found.tables
        _people(db, tables)
        rows = list(_items(labels // 2, expected))
        db.execute(tables["items"].insert(), rows)
        said = list(_said(rows, expected))
        db.execute(tables["judgments"].insert(), said)
        log = list(_chained(said))
        db.execute(tables["events"].insert(), log)
        last = tables["projects"].update().values(last_seq=len(log), last_hash=log[-1]["hash"])
        db.execute(last)
    return expected


def columns(engine: Engine) -> dict[str, tuple[list[str], list[str]]]:
    """Return of each table its columns and those of its key."""
    found = MetaData()
    found.reflect(engine)
    return {
        one.name: (one.columns.keys(), [c.name for c in one.primary_key])
        for one in found.sorted_tables
        if one.name != "alembic_version"
    }


def fingerprint(engine: Engine, old: dict[str, tuple[list[str], list[str]]]) -> dict[str, str]:
    """Return of each table the hash over all rows, in these columns."""
    hashes = {}
    with engine.connect() as db:
        for name, (names, key) in old.items():
            query: Any = select(*map(column, names)).select_from(table(name))
            seal = hashlib.sha256()
            for row in db.execute(query.order_by(*map(column, key))):
                seal.update(repr(tuple(row)).encode())
            hashes[name] = seal.hexdigest()
    return hashes


def _people(db: Connection, tables: Any) -> None:
    users: Table = tables["users"]
    common = {"password_hash": "-", "is_admin": False, "created_at": AT}
    db.execute(
        users.insert(),
        [{"id": who, "email": f"{who}@example.org", "name": who, **common} for who in RATERS],
    )
    about = {"id": "prj", "name": "Old", "settings": "{}", "secret": "s" * 64, "created_at": AT}
    db.execute(tables["projects"].insert().values(**about, last_seq=0, last_hash=""))
    place = {"project_id": "prj", "role": "rater", "state": "active"}
    db.execute(tables["members"].insert(), [{**place, "user_id": who} for who in RATERS])


def _items(count: int, expected: Expected) -> Iterator[dict[str, Any]]:
    for place in range(1, count + 1):
        state = "open" if place % LEFT_OPEN == 0 else "done"
        state = "settled" if place % SETTLED == 0 else state
        state = "withdrawn" if place % WITHDRAWN == 0 else state
        use = "gold" if place % GOLD == 0 else "label"
        expected.open += use == "label" and state == "open"
        expected.done += use == "label" and state in ("done", "settled")
        yield {
            "id": f"itm-{place:08}",
            "project_id": "prj",
            "position": place,
            "comparison_id": f"c{place}",
            "content": json.dumps({"prompt": f"Question {place}", "responses": ["a", "b" * 200]}),
            "kind": "scale",
            "gold": "{}" if use == "gold" else None,
            "use": use,
            "wanted": 2,
            "votes": 2,
            "held": 0,
            "state": state,
            "disagreement": 0.5 if place % 3 else 0.0,
        }


def _said(items: list[dict[str, Any]], expected: Expected) -> Iterator[dict[str, Any]]:
    for number in range(2 * len(items)):
        item, who = items[number // 2], RATERS[(number * 7) % len(RATERS)]
        live = number % TAKEN_BACK != 0
        expected.judged[who] += live
        yield {
            "id": f"j{number:08}",
            "project_id": "prj",
            "item_id": item["id"],
            "user_id": who,
            "seq": 2 * number + 2,
            "round": 0,
            "dimension": "overall",
            "kind": "scale",
            "value": json.dumps({"kind": "scale", "grade": 1 + number % 7}),
            "shown": "1,0" if number % 2 else "0,1",
            "why": "clearer, naïve ✓" if number % 9 == 0 else "",
            "guideline": 0,
            "seconds": number / 8,
            "right": None,
            "settles": False,
            "live": live,
            "at": AT,
        }


def _chained(said: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a shown and a voted event for each label, sealed as the first version sealed them."""
    seal = ""
    for number, one in enumerate(said):
        for type, data in (("shown", {"round": 0}), ("voted", {"verdict": one["value"]})):
            row = {
                "at": AT,
                "data": json.dumps(data),
                "item_id": one["item_id"],
                "key": f"{type}-{number}",
                "project_id": "prj",
                "seq": one["seq"] - (type == "shown"),
                "type": type,
                "user_id": one["user_id"],
            }
            plain = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            seal = hashlib.sha256(f"{seal}\n{plain}".encode()).hexdigest()
            yield {**row, "hash": seal}
