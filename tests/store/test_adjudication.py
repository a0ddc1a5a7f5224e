"""Lists for the lead: what raters disagree about, known answers, flags."""

import uuid
from functools import partial

import pytest
from tests.store.world import World

from preftune.errors import DataError, StoreError
from preftune.store.adjudication import (
    Wanted,
    close_flag,
    disagreed,
    known_items,
    list_items,
    mark,
    open_flags,
    said_of,
)
from preftune.store.items import Item, Verdict, withdraw
from preftune.store.labels import Vote, flag, revise, settle
from preftune.store.queue import Task
from preftune.types import text_of

GRADE_1 = {"overall": {"kind": "scale", "grade": 1}}


def listed(world: World, **wanted: object) -> list[str]:
    with world.store.read() as db:
        found = list_items(db, world.project, Wanted(**wanted))  # type: ignore[arg-type]  # its fields
    return [it.comparison_id for it in found]


def listed_ids(world: World) -> dict[str, str]:
    with world.store.read() as db:
        return {it.comparison_id: it.id for it in list_items(db, world.project, Wanted())}


def judge(world: World, who: str, good: int) -> Task:
    """Judge the next item in favour of the response imported at place `good`."""
    task = world.next(who)
    world.say(who, task, grade=2 if task.shown[0] == good else 6)
    return task


def split(world: World) -> list[Item]:
    with world.store.read() as db:
        return disagreed(db, world.project)


def test_items_are_found_by_state_use_words_and_place(world: World) -> None:
    world.add(3)
    world.add(1, first=3, use="gold", gold=GRADE_1)
    judge(world, "ann", 0)
    assert listed(world) == ["c0", "c1", "c2", "c3"]
    assert listed(world, state="done") == ["c0"]
    assert listed(world, use="gold") == ["c3"]
    assert listed(world, search="BAD ANSWER 2") == ["c2"]
    assert listed(world, search="c1") == ["c1"]
    assert listed(world, after=2) == ["c2", "c3"]
    assert listed(world, search="100%") == []  # no wildcard


def test_an_unknown_filter_is_refused(world: World) -> None:
    with pytest.raises(DataError, match="state: 'lost' is not one of open, done"):
        listed(world, state="lost")
    with pytest.raises(DataError, match="search: over 200 characters"):
        listed(world, search="x" * 201)


def test_the_most_disagreed_items_come_first_and_settled_ones_not_at_all(world: World) -> None:
    world.project = world.new_project("pairs", raters_per_item=2)
    world.add(3)
    for _ in range(3):
        judge(world, "ann", 0)
        task = world.next("bob")
        agrees = text_of(task.content.responses[0].messages).endswith("answer 0")
        good = 0 if agrees else 1
        world.say("bob", task, grade=2 if task.shown[0] == good else 6)
    task_id = listed_ids(world)["c2"]
    assert [it.comparison_id for it in split(world)] == ["c1", "c2"]
    assert all(it.disagreement == 0.5 for it in split(world))
    said = Vote(key="k1", item_id=task_id, round=0, verdicts=GRADE_1)
    world.store.write(lambda db: settle(db, world.project, "lead", said, shown=(0, 1)))
    assert [it.comparison_id for it in split(world)] == ["c1"]


def test_all_that_was_said_of_an_item_is_kept_and_told_as_imported(world: World) -> None:
    world.add(1)
    task = judge(world, "ann", 1)
    again = Vote(
        key=uuid.uuid4().hex,
        item_id=task.item_id,
        round=0,
        verdicts={"overall": {"kind": "scale", "grade": 4}},
        why={"overall": "second thoughts"},
    )
    world.store.write(lambda db: revise(db, world.project, "ann", again))
    with world.store.read() as db:
        first, second = said_of(db, world.project, task.item_id)
    assert (first.verdict["grade"], first.live, first.shown) == (6, False, task.shown)
    assert (second.verdict["grade"], second.live, second.why) == (4, True, "second thoughts")


def test_a_marked_item_has_a_known_answer_also_for_earlier_verdicts(world: World) -> None:
    world.add(1)
    task = judge(world, "ann", 0)
    world.store.write(
        lambda db: mark(
            db,
            world.project,
            task.item_id,
            use="calibration",
            gold=GRADE_1,
            why="it is kinder",
            by="lead",
        )
    )
    with world.store.read() as db:
        (known,) = known_items(db, world.project)
    assert known.item.gold["overall"] == {"kind": "scale", "grade": 1, "why": "it is kinder"}
    assert (known.right, known.of) == ({"overall": 1}, {"overall": 1})
    assert world.judged().judgments == []  # no dataset has it
    world.store.write(
        lambda db: mark(db, world.project, task.item_id, use="label", gold={}, why="", by="lead")
    )
    with world.store.read() as db:
        assert known_items(db, world.project) == []
        assert said_of(db, world.project, task.item_id)[0].right is None
    assert len(world.judged().judgments) == 1
    assert world.types()[-2:] == ["marked", "marked"]


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ({}, "gold needs the right answer for overall"),
        ({"overall": {"kind": "binary", "choice": 0}}, "kind 'binary', asked was 'scale'"),
        ({"overall": {"kind": "scale", "grade": 8}}, "Grades run from 1 to 7"),
    ],
)
def test_a_known_answer_must_answer_what_is_asked(
    world: World, gold: dict[str, Verdict], said: str
) -> None:
    world.add(1)
    item_id = world.next("ann").item_id
    with pytest.raises(DataError, match=said):
        world.store.write(
            lambda db: mark(db, world.project, item_id, use="gold", gold=gold, why="", by="lead")
        )


def test_flags_wait_until_they_are_dealt_with(world: World) -> None:
    world.add(3)
    for number, why in enumerate(("typo", "unsafe", "both wrong")):
        task = world.next("ann")
        world.store.write(
            partial(
                flag,
                project_id=world.project,
                user_id="ann",
                item_id=task.item_id,
                key=f"f{number}",
                why=why,
            )
        )
    with world.store.read() as db:
        first, second, third = open_flags(db, world.project)
    assert [first.why, second.why, third.why] == ["typo", "unsafe", "both wrong"]
    world.store.write(lambda db: close_flag(db, world.project, first.seq, by="lead"))
    world.store.write(lambda db: withdraw(db, world.project, [second.item_id], by="lead"))
    with world.store.read() as db:
        assert open_flags(db, world.project) == [third]
    with pytest.raises(StoreError, match="flag 1: is not there"):
        world.store.write(lambda db: close_flag(db, world.project, 1, by="lead"))
