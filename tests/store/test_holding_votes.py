"""The votes of a dataset as columns are those of its records."""

import random
import uuid
from collections import defaultdict

import numpy as np
from tests.store.world import World

from preftune.comparisons.vote_table import VoteTable, vote_table
from preftune.store.holding_votes import holding_votes
from preftune.store.labels import Vote, settle
from preftune.store.projects import change_state


def said(table: VoteTable) -> list[list[tuple[str, int, bool, bool]]]:
    """Return the votes on each item, without the numbers that the two ways give to items."""
    by_unit: dict[int, list[tuple[str, int, bool, bool]]] = defaultdict(list)
    columns = (table.unit, table.rater, table.shown, table.swapped, np.isnan(table.seconds))
    for unit, rater, *vote in zip(*columns, strict=True):
        by_unit[unit].append((table.raters[rater], *vote))
    return sorted(sorted(votes) for votes in by_unit.values())


def test_they_are_those_of_the_records(world: World) -> None:
    project = world.project = world.new_project("two", raters_per_item=2)
    draw = random.Random(4)
    world.add(12)
    for who in ("ann", "bob"):
        for _ in range(12):
            task = world.next(who)
            world.say(who, task, grade=draw.randint(1, 7), seconds=draw.choice((None, 3.0)))
    word = Vote(
        key=uuid.uuid4().hex,
        item_id=task.item_id,
        round=0,
        verdicts={"overall": {"kind": "scale", "grade": 6}},
    )
    world.store.write(lambda db: settle(db, project, "lead", word, shown=(0, 1)))
    assert len(same_both_ways(world)) == 23  # 24, and two of them gave way to the lead's
    world.store.write(lambda db: change_state(db, project, "ann", "excluded", by="lead"))
    assert len(same_both_ways(world)) == 12  # bob's 11 that hold, and the lead's


def same_both_ways(world: World) -> VoteTable:
    records = world.judged()
    with world.store.read() as db:
        found = holding_votes(db, world.project, "overall")
        nothing = holding_votes(db, world.project, "another")
    expected = vote_table(records.judgments, records.comparisons)
    assert said(found) == said(expected)
    assert len(nothing) == 0
    return found
