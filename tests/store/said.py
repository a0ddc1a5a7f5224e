"""Verdicts put straight into a store, for tests that need many of them."""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, insert
from tests.store.world import World

from preftune.store.items import Verdict
from preftune.store.schema import items, judgments

NUMBERS = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A verdict of the table of judgments, on responses as shown."""

    item: int  # place in the order of import, from 1
    who: str
    verdict: Verdict
    shown: tuple[int, ...] = (0, 1)
    round: int = 0
    dimension: str = "overall"
    seconds: float | None = 10.0
    right: bool | None = None


def put(world: World, rows: Iterable[Row]) -> None:
    """Write verdicts as if raters had given them."""

    def write(db: Connection) -> None:
        query = items.select().where(items.c.project_id == world.project)
        names = {row.position: row.id for row in db.execute(query)}
        db.execute(insert(judgments), [_row(world.project, names[row.item], row) for row in rows])

    world.store.write(write)


def graded(item: int, who: str, signed: int, *, swapped: bool = False, round: int = 0) -> Row:
    """Return a grade: `signed` -3..3, above 0 where the first imported is better."""
    grade = 4 + signed if swapped else 4 - signed
    shown = (1, 0) if swapped else (0, 1)
    verdict = {"kind": "scale", "grade": grade}
    return Row(item=item, who=who, verdict=verdict, shown=shown, round=round)


def noisy(
    draw: random.Random, who: str, *, items: int, truth: dict[int, int], accuracy: float
) -> list[Row]:
    """Return the grades of a rater who is right with this probability, sides shuffled."""
    found = []
    for item in range(1, items + 1):
        side = truth[item] if draw.random() < accuracy else -truth[item]
        found.append(graded(item, who, 2 * side, swapped=draw.random() < 0.5))
    return found


def _row(project_id: str, item_id: str, row: Row) -> dict[str, object]:
    number = next(NUMBERS)
    return {
        "id": f"j{number}",
        "project_id": project_id,
        "item_id": item_id,
        "user_id": row.who,
        "seq": number,
        "round": row.round,
        "dimension": row.dimension,
        "kind": row.verdict["kind"],
        "value": msgspec.json.encode(row.verdict).decode(),
        "shown": ",".join(map(str, row.shown)),
        "why": "",
        "guideline": 0,
        "seconds": row.seconds,
        "right": row.right,
        "settles": False,
        "live": True,
        "at": "2026-01-01T00:00:00.000Z",
    }
