"""Verdicts as columns say what the rows say, whatever order they were shown in."""

import math

import numpy as np
import pytest
from tests.store.said import Row, graded, put
from tests.store.world import World

from preftune.store.adjudication import Wanted, list_items
from preftune.store.labels import Vote, settle
from preftune.store.verdicts import REWRITTEN, TIE, Verdicts, last_of, read_verdicts


def read(world: World) -> Verdicts:
    """Return the verdicts in the order they came in."""
    with world.store.read() as db:
        said = read_verdicts(db, world.project)
    return said.where(np.argsort(said.seq))


def test_a_grade_counts_towards_the_response_as_imported(world: World) -> None:
    world.add(4)
    put(
        world,
        [
            graded(1, "ann", 3),
            graded(2, "ann", 3, swapped=True),
            graded(3, "ann", -1, swapped=True),
            graded(4, "ann", 0),
        ],
    )
    said = read(world)
    assert said.signed.tolist() == [3, 3, -1, 0]
    assert said.side.tolist() == [0, 0, 1, TIE]
    assert said.first.tolist() == [1, 0, 1, -1]  # which side was chosen as shown
    assert said.swapped.tolist() == [0, 1, 1, 0]


def test_choices_rankings_and_rewrites_have_their_side(world: World) -> None:
    world.add(4)
    ranking = {"kind": "ranking", "ranking": [[1], [0, 2]]}
    put(
        world,
        [
            Row(item=1, who="ann", verdict={"kind": "binary", "choice": 0}, shown=(1, 0)),
            Row(item=2, who="ann", verdict=ranking, shown=(2, 0, 1)),
            Row(item=3, who="ann", verdict={"kind": "rewrite", "rewrite": "x"}, shown=(0,)),
            Row(item=4, who="ann", verdict={"kind": "tie"}),
        ],
    )
    said = read(world)
    assert said.side.tolist() == [1, 0, REWRITTEN, TIE]
    assert said.signed[0] == -1
    assert math.isnan(said.signed[1])
    assert said.signed[3] == 0


def test_what_is_not_measured_and_not_known_stays_so(world: World) -> None:
    world.add(1)
    put(world, [Row(item=1, who="ann", verdict={"kind": "tie"}, seconds=None)])
    put(world, [Row(item=1, who="bob", verdict={"kind": "tie"}, right=False)])
    said = read(world)
    assert math.isnan(said.seconds[0])
    assert said.right.tolist() == [-1, 0]


def test_an_empty_project_has_no_verdicts(world: World) -> None:
    said = read(world)
    assert (len(said), said.items, said.users) == (0, (), ())


def test_settled_gold_and_withdrawn_items_do_not_count_but_are_there(world: World) -> None:
    world.add(2)
    world.add(1, first=2, use="gold", gold={"overall": {"kind": "scale", "grade": 1}})
    put(world, [graded(item, "ann", 1) for item in (1, 2, 3)])
    with world.store.read() as db:
        (first,) = list_items(db, world.project, Wanted(search="c0"))
    said = Vote(
        key="k", item_id=first.id, round=0, verdicts={"overall": {"kind": "scale", "grade": 1}}
    )
    world.store.write(lambda db: settle(db, world.project, "lead", said, shown=(0, 1)))
    found = read(world)
    assert len(found) == 3  # the lead's own is no rater's verdict
    assert found.users == ("ann",)
    counting = [found.items[at] for at in found.item[found.counts]]
    assert len(counting) == 1
    assert counting != [first.id]


@pytest.mark.parametrize("rounds", [(0, 1), (1, 0)])
def test_the_last_verdict_of_a_key_is_the_one_that_came_last(
    world: World, rounds: tuple[int, int]
) -> None:
    world.add(2)
    put(world, [graded(2, "ann", 1, round=rounds[0]), graded(1, "ann", 2)])
    put(world, [graded(2, "ann", -3, round=rounds[1])])
    said = read(world)
    last = last_of((said.item, said.user), said)
    assert sorted(said.signed[last].tolist()) == [-3, 2]
