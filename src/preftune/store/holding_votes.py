"""The votes of a project that a dataset is made of, as columns of numbers."""

from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, Select, or_, select

from preftune.comparisons.vote_table import VoteTable
from preftune.store.labels import side
from preftune.store.projects import members_of
from preftune.store.schema import items, judgments
from preftune.types import RaterKind

MANY = 20_000  # rows fetched at a time
HUMAN: RaterKind = "human"


def holding_votes(db: Connection, project_id: str, dimension: str) -> VoteTable:
    """Return the votes between two responses that hold in a dimension, in the order given.

    Equal to `comparisons.vote_table` of the same verdicts, without a record for each of them: a
    lead's word replaces what raters said, and excluded raters are left out.
    """
    gone = {m.user_id for m in members_of(db, project_id) if m.state == "excluded"}
    votes: dict[tuple[str, str], tuple[int, bool]] = {}
    unit_place, rater_place = dict[str, int](), dict[str, int]()
    columns: list[tuple[int, int, int, bool, float]] = []
    query = _holding(project_id, dimension)
    for row in db.execute(query.execution_options(yield_per=MANY)):
        item_id, rater, value, shown, seconds, settles = row
        if rater in gone and not settles:
            continue
        if (value, shown) not in votes:
            votes[value, shown] = _vote(value, shown)
        unit = unit_place.setdefault(item_id, len(unit_place))
        place = rater_place.setdefault(rater, len(rater_place))
        measured = float("nan") if seconds is None else seconds
        columns.append((unit, place, *votes[value, shown], measured))
    table = np.array(columns, dtype=np.float64).reshape(-1, 5)
    return VoteTable(
        units=tuple(unit_place),
        raters=tuple(rater_place),
        kinds=(HUMAN,) * len(rater_place),
        clusters="comparison",
        cluster=np.arange(len(unit_place)),
        unit=table[:, 0].astype(np.int64),
        rater=table[:, 1].astype(np.int64),
        shown=table[:, 2].astype(np.int8),
        swapped=table[:, 3].astype(bool),
        seconds=table[:, 4],
    )


def _holding(project_id: str, dimension: str) -> Select[Any]:
    said = judgments.c
    return (
        select(said.item_id, said.user_id, said.value, said.shown, said.seconds, said.settles)
        .join(items, items.c.id == said.item_id)
        .where(said.project_id == project_id, said.live, said.dimension == dimension)
        .where(items.c.use == "label", items.c.state != "withdrawn")
        .where(or_(said.settles, items.c.state != "settled"))
        .where(said.kind.in_(("binary", "scale", "tie")), said.shown.in_(("0,1", "1,0")))
        .order_by(said.seq)
    )


def _vote(value: str, shown: str) -> tuple[int, bool]:
    """Return 1 where the first shown is better, 0 for a tie, else -1; and whether swapped."""
    best = side(msgspec.json.decode(value))
    return {"0": 1, "1": -1, "tie": 0}[best], shown == "1,0"
