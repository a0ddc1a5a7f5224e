"""The table of raters names who stands out, and what would change without them."""

import random
from collections.abc import Iterable

import pytest
from tests.store.said import Row, graded, noisy, put
from tests.store.world import World

from preftune.comparisons.aggregate import Aggregated, pairs_from_judgments
from preftune.store.labels import is_right
from preftune.store.rater_table import RaterRow, Share, rater_rows, without
from preftune.store.snapshots import Judged, judged
from preftune.store.verdicts import read_verdicts


def table(world: World) -> dict[str, RaterRow]:
    with world.store.read() as db:
        return {row.user_id: row for row in rater_rows(read_verdicts(db, world.project))}


def crowd(world: World, *, items: int, seed: int, odd: Iterable[Row] = ()) -> dict[str, RaterRow]:
    """Return the table after three good raters, and the verdicts of an odd one."""
    draw = random.Random(seed)
    world.add(items)
    truth = {item: draw.choice((-1, 1)) for item in range(1, items + 1)}
    for who in ("ann", "bob", "lead"):
        put(world, noisy(draw, who, items=items, truth=truth, accuracy=0.85))
    put(world, odd)
    return table(world)


def test_shares_count_what_they_say(world: World) -> None:
    world.add(3)
    put(world, [graded(1, "ann", 2), graded(2, "ann", 2, swapped=True), graded(3, "ann", 0)])
    put(world, [graded(1, "ann", -1, round=1), graded(2, "ann", 1, round=1)])
    put(world, [graded(1, "bob", -2), graded(2, "bob", -1)])
    row = table(world)["ann"]
    assert (row.items, row.verdicts) == (3, 5)
    assert row.first == Share(hits=2, of=4)  # 1: first, 2: second, 1 again: second, 2 again: first
    assert row.repeats == Share(hits=1, of=2)
    assert row.others == Share(hits=1, of=2)  # her last words: second on 1, first on 2
    assert (row.median_s, row.per_hour) == (10.0, 360.0)


def test_known_answers_are_counted(world: World) -> None:
    world.add(2)
    verdict = {"kind": "scale", "grade": 2}
    assert is_right(verdict, {"kind": "scale", "grade": 1}, (0, 1)) is True
    put(world, [Row(item=1, who="ann", verdict=verdict, right=True)])
    put(world, [Row(item=2, who="ann", verdict=verdict, right=False)])
    assert table(world)["ann"].known == Share(hits=1, of=2)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_clicker_is_flagged_within_50_items(world: World, seed: int) -> None:
    draw = random.Random(100 + seed)
    clicks = [
        graded(item, "eve", draw.choice((-2, 2)), swapped=draw.random() < 0.5)
        for item in range(1, 51)
    ]
    rows = crowd(world, items=50, seed=seed, odd=clicks)
    assert "agrees less with others than they do" in rows["eve"].flags
    assert all(not rows[who].flags for who in ("ann", "bob", "lead"))


def test_a_rater_who_always_takes_one_side_is_flagged(world: World) -> None:
    draw = random.Random(3)
    lazy = []
    for item in range(1, 51):
        swapped = draw.random() < 0.5
        lazy.append(graded(item, "eve", -2 if swapped else 2, swapped=swapped))
    rows = crowd(world, items=50, seed=3, odd=lazy)
    assert rows["eve"].first == Share(hits=50, of=50)
    assert "leans to the first side" in rows["eve"].flags


def test_a_rater_in_a_hurry_is_flagged(world: World) -> None:
    hasty = [
        Row(item=item, who="eve", verdict={"kind": "scale", "grade": 2}, seconds=1.0)
        for item in range(1, 31)
    ]
    assert "much faster than the others" in crowd(world, items=30, seed=4, odd=hasty)["eve"].flags


def test_few_cases_flag_nobody(world: World) -> None:
    rows = crowd(world, items=15, seed=5, odd=[graded(item, "eve", 3) for item in range(1, 16)])
    assert all(not row.flags for row in rows.values())


def test_an_empty_project_has_no_rows(world: World) -> None:
    assert table(world) == {}


def outcomes(found: Aggregated) -> dict[str, str]:
    """Return which response is ahead in each comparison that has a pair."""
    return {
        pair.provenance.comparison_id: pair.provenance.chosen_generator or ""
        for pair in found.pairs
    }


def test_without_a_rater_equals_the_pairs_made_without_them(world: World) -> None:
    for seed in range(6):
        world.project = world.new_project(f"draw {seed}")
        world.add(40)
        put(world, scattered(random.Random(seed)))
        with world.store.read() as db:
            said = read_verdicts(db, world.project)
            whole, rest = judged(db, world.project), judged(db, world.project, leave_out=["eve"])
        before = outcomes(pairs_from_judgments(whole.comparisons, whole.judgments))
        after = outcomes(pairs_from_judgments(rest.comparisons, rest.judgments))
        both = before.keys() & after.keys()
        found = without(said, "eve")
        assert found.lost == len(before.keys() - after.keys())
        assert found.gained == len(after.keys() - before.keys())
        assert found.flipped == sum(before[name] != after[name] for name in both)
        assert found.same == sum(before[name] == after[name] for name in both)
        assert found.unjudged == len(units(whole) - units(rest))


def scattered(draw: random.Random) -> list[Row]:
    """Return verdicts of three raters on some of 40 items, some of them twice."""
    return [
        graded(item, who, draw.randint(-3, 3), swapped=draw.random() < 0.5, round=round)
        for item in range(1, 41)
        for who in ("ann", "bob", "eve")
        for round in ((0, 1) if draw.random() < 0.3 else (0,))
        if draw.random() < 0.8
    ]


def units(said: Judged) -> set[str]:
    """Return the items that somebody judged, whichever order they were shown in."""
    return {comparison.id.removesuffix("~swapped") for comparison in said.comparisons}


def test_without_somebody_who_said_nothing_all_stays(world: World) -> None:
    world.add(2)
    put(world, [graded(1, "ann", 1), graded(2, "ann", 0)])
    with world.store.read() as db:
        found = without(read_verdicts(db, world.project), "bob")
    assert (found.same, found.lost, found.gained, found.flipped, found.unjudged) == (1, 0, 0, 0, 0)
