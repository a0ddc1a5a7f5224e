"""Agreement while people work is the agreement of the textbook, only faster."""

import random

import numpy as np
import pytest
from tests.store.said import Row, graded, noisy, put
from tests.store.world import World

from preftune.stats.agreement import Level, alpha_interval, krippendorff_alpha
from preftune.store.agreement import REAL_SETS, agreement, leave_out
from preftune.store.verdicts import Verdicts, last_of, read_verdicts

# four raters, twelve units; Krippendorff 2011, example of section C
RELIABILITY = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def columns(table: tuple[tuple[int | None, ...], ...]) -> Verdicts:
    """Return a table of raters by units as columns of verdicts."""
    cells = [(u, r, v) for r, row in enumerate(table) for u, v in enumerate(row) if v is not None]
    unit, rater, value = (np.array(column, dtype=np.int64) for column in zip(*cells, strict=True))
    zeros = np.zeros_like(unit)
    return Verdicts(
        items=tuple(map(str, range(12))),
        users=tuple("abcd"),
        dimensions=("overall",),
        item=unit,
        user=rater,
        dimension=zeros,
        round=zeros,
        seq=np.arange(len(unit)),
        guideline=zeros,
        seconds=zeros.astype(np.float64),
        right=zeros - 1,
        side=value,
        signed=value.astype(np.float64),
        first=zeros,
        swapped=zeros,
        counts=np.ones(len(unit), dtype=np.bool_),
    )


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743421), ("ordinal", 0.815388)])
def test_alpha_equals_the_published_example(level: Level, expected: float) -> None:
    found = agreement(columns(RELIABILITY), "overall", level=level)
    assert found.alpha == pytest.approx(expected, abs=1e-6)
    assert (found.items, found.verdicts) == (11, 40)


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_alpha_and_interval_equal_those_of_stats(world: World, level: Level) -> None:
    draw = random.Random(7)
    world.add(60)
    truth = {item: draw.choice((-1, 1)) for item in range(1, 61)}
    for who, accuracy in (("ann", 0.9), ("bob", 0.75), ("eve", 0.6)):
        rows = noisy(draw, who, items=60, truth=truth, accuracy=accuracy)
        put(world, draw.sample(rows, 45))
    put(world, [graded(3, "ann", 0, round=1), graded(5, "bob", 1, round=1)])
    with world.store.read() as db:
        said = read_verdicts(db, world.project)
    last = last_of((said.item, said.user), said)
    value = said.signed if level == "ordinal" else said.side
    votes = list(zip(said.item[last], said.user[last], value[last], strict=True))
    found = agreement(said, "overall", level=level, rounds=4000)
    assert found.alpha == pytest.approx(krippendorff_alpha(votes, level=level), abs=1e-12)
    low, high = alpha_interval(votes, level=level, rounds=4000)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_nothing_is_said_where_nothing_can_be_compared(world: World) -> None:
    world.add(2)
    put(world, [graded(1, "ann", 1), graded(2, "ann", 1)])
    with world.store.read() as db:
        lone = agreement(read_verdicts(db, world.project), "overall")
        assert (lone.alpha, lone.items) == (None, 0)
    put(world, [graded(1, "bob", 1), graded(2, "bob", 1)])
    with world.store.read() as db:
        said = read_verdicts(db, world.project)
    same = agreement(said, "overall")
    assert (same.alpha, same.low, same.items) == (None, None, 2)
    assert agreement(said, "harmless").items == 0


def test_a_rater_can_be_left_out(world: World) -> None:
    world.add(4)
    for item in range(1, 5):
        side = 1 if item % 2 else -1
        put(
            world,
            [graded(item, "ann", side), graded(item, "bob", side), graded(item, "eve", -side)],
        )
    with world.store.read() as db:
        said = read_verdicts(db, world.project)
    whole = agreement(said, "overall").alpha
    assert whole is not None
    assert whole < 0.2
    assert agreement(leave_out(said, {"eve"}), "overall").alpha == 1.0
    assert len(leave_out(said, {"nobody"})) == 12


def test_rewrites_are_not_compared(world: World) -> None:
    world.add(1)
    rewrite = {"kind": "rewrite", "rewrite": "better"}
    put(world, [Row(item=1, who=w, verdict=rewrite, shown=(0,)) for w in ("ann", "bob")])
    with world.store.read() as db:
        assert agreement(read_verdicts(db, world.project), "overall").items == 0


def test_real_sets_are_within_the_range_of_alpha() -> None:
    assert all(0 < one.alpha < 1 for sets in REAL_SETS.values() for one in sets)
