"""From shown to voted: what a rater says is kept once, in the order it was shown, for ever."""

import threading
from functools import partial

import pytest
from tests.store.world import World

from preftune.errors import DataError, StoreError
from preftune.store import events
from preftune.store.items import as_imported, check_verdict, order_shown
from preftune.store.labels import Vote, disagreement, flag, revise, settle, skip, undo, vote
from preftune.store.projects import MemberState, change_state, progress, publish_guideline
from preftune.store.queue import task_again


def test_a_vote_is_kept_with_what_it_needs_to_be_traced(world: World) -> None:
    world.add(1)
    world.store.write(
        lambda db: publish_guideline(db, world.project, "Be kind.", base=0, by="lead")
    )
    task = world.next("ann")
    answer = world.say("ann", task, grade=2, why={"overall": "clearer"}, seconds=4.5)
    with world.store.read() as db:
        (event,) = [e for e in events.log(db, world.project) if e.type == "voted"]
    said = world.judged()
    assert event.seq == answer.seq
    assert event.data["shown"] == list(task.shown)
    assert event.data["guideline"] == 1
    (judgment,) = said.judgments
    assert (judgment.rater.id, judgment.why, judgment.seconds) == ("ann", "clearer", 4.5)
    assert judgment.guideline.startswith("v1 ")
    (shown,) = said.comparisons
    assert shown.id == judgment.comparison_id
    assert shown.responses == task.content.responses  # grade 2: the one shown first is better
    assert judgment.grade == 2


def test_the_same_request_again_changes_nothing(world: World) -> None:
    world.add(2)
    task = world.next("ann")
    first, again = (world.say("ann", task, key="k1") for _ in range(2))
    assert (first.again, again.again, first.seq == again.seq) == (False, True, True)
    assert world.types().count("voted") == 1
    with pytest.raises(StoreError, match="another one came under this key"):
        world.say("ann", task, grade=6, key="k1")
    with pytest.raises(StoreError, match="judged it already"):
        world.say("ann", task, key="k2")


def test_what_was_never_shown_cannot_be_judged(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    with pytest.raises(StoreError, match="was not shown to you"):
        world.say("bob", task)


@pytest.mark.parametrize(
    "verdict",
    [
        {"kind": "scale", "grade": 0},
        {"kind": "scale", "grade": 8},
        {"kind": "scale", "grade": True},
        {"kind": "scale"},
        {"kind": "binary", "choice": 0},
        {"kind": "unparsed"},
    ],
    ids=str,
)
def test_a_verdict_that_answers_something_else_is_refused(
    world: World, verdict: dict[str, object]
) -> None:
    world.add(1)
    task = world.next("ann")
    said = Vote(key="k", item_id=task.item_id, round=0, verdicts={"overall": verdict})
    with pytest.raises(DataError, match="verdict"):
        world.store.write(lambda db: vote(db, world.project, "ann", said))
    assert "voted" not in world.types()


def test_revising_keeps_both_in_the_log_and_one_in_force(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    world.say("ann", task, grade=1)
    said = Vote(
        key="k2", item_id=task.item_id, round=0, verdicts={"overall": {"kind": "scale", "grade": 7}}
    )
    world.store.write(lambda db: revise(db, world.project, "ann", said))
    assert world.types()[-2:] == ["voted", "revised"]
    assert [j.grade for j in world.judged().judgments] == [7]


def test_undo_brings_the_item_back_as_it_was_shown(world: World) -> None:
    world.add(2)
    task = world.next("ann")
    world.say("ann", task)
    assert world.store.write(lambda db: undo(db, world.project, "ann", "u1")) == task.item_id
    assert world.store.write(lambda db: undo(db, world.project, "ann", "u1")) == task.item_id
    again = world.next("ann")
    assert (again.item_id, again.shown) == (task.item_id, task.shown)
    assert world.judged().judgments == []
    with world.store.read() as db:
        assert progress(db, world.project, "ann").done_by_me == 0
    world.say("ann", again, grade=5)
    assert [j.grade for j in world.judged().judgments] == [5]
    with pytest.raises(StoreError, match="not judged anything"):
        world.store.write(lambda db: undo(db, world.project, "bob", "u2"))


def test_skipped_and_flagged_items_go_to_others(world: World) -> None:
    world.add(2)
    first = world.next("ann")
    world.store.write(lambda db: skip(db, world.project, "ann", item_id=first.item_id, key="s"))
    second = world.next("ann")
    assert second.item_id != first.item_id
    world.store.write(
        lambda db: flag(db, world.project, "ann", item_id=second.item_id, key="f", why="broken")
    )
    assert world.next_or_none("ann") is None
    assert world.next("bob").item_id == first.item_id


def test_a_paused_rater_and_a_stranger_get_nothing(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    world.store.write(lambda db: change_state(db, world.project, "ann", "paused", by="lead"))
    for work in (lambda: world.next("ann"), lambda: world.say("ann", task)):
        with pytest.raises(StoreError, match="paused here"):
            work()
    with pytest.raises(StoreError, match="no member here"):
        world.next("eve")


def test_excluding_a_rater_takes_their_verdicts_out_and_back_in(world: World) -> None:
    world.add(1)
    world.say("ann", world.next("ann"))
    states: list[tuple[MemberState, int]] = [("excluded", 0), ("active", 1)]
    for state, count in states:
        change = partial(
            change_state, project_id=world.project, user_id="ann", state=state, by="lead"
        )
        world.store.write(change)
        assert len(world.judged().judgments) == count


def test_settling_replaces_what_the_raters_said(world: World) -> None:
    project = world.project = world.new_project("two", raters_per_item=2)
    world.add(1)
    a, b = world.next("ann"), world.next("bob")
    world.say("ann", a, grade=1 if a.shown == (0, 1) else 7)
    world.say("bob", b, grade=7 if b.shown == (0, 1) else 1)
    said = Vote(
        key="k", item_id=a.item_id, round=0, verdicts={"overall": {"kind": "scale", "grade": 3}}
    )
    world.store.write(lambda db: settle(db, project, "lead", said, shown=(0, 1)))
    (judgment,) = world.judged().judgments
    assert (judgment.rater.id, judgment.grade) == ("lead", 3)


def test_two_raters_at_once_never_hold_more_than_is_wanted(world: World) -> None:
    world.add(40)
    seen: dict[str, list[str]] = {"ann": [], "bob": []}

    def work(who: str) -> None:
        while (task := world.next_or_none(who)) is not None:
            seen[who].append(task.item_id)
            world.say(who, task)

    threads = [threading.Thread(target=work, args=(who,)) for who in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not set(seen["ann"]) & set(seen["bob"])
    assert len(seen["ann"] + seen["bob"]) == 40


GOLD = {"overall": {"kind": "scale", "grade": 1}}


def test_calibration_comes_first_and_tells_the_answer_others_do_not(world: World) -> None:
    world.add(3)
    world.add(1, first=100, use="calibration", gold=GOLD)
    task = world.next("ann")
    assert task.use == "calibration"
    answer = world.say("ann", task, grade=2 if task.shown == (0, 1) else 6)
    assert answer.right == {"overall": True}
    assert answer.expected["overall"]["grade"] == (1 if task.shown == (0, 1) else 7)
    plain = world.next("ann")
    assert plain.use == "label"
    assert world.say("ann", plain).right == {}
    (judgment,) = world.judged().judgments  # calibration is no data
    assert "c100" not in judgment.comparison_id


def test_gold_and_repeats_are_mixed_in_at_their_share(world: World) -> None:
    world.project = world.new_project("mixed", gold_share=0.2, repeat_share=0.1)
    world.add(120)
    world.add(60, first=500, use="gold", gold=GOLD)
    uses, rounds = [], []
    for _ in range(100):
        task = world.next("ann")
        uses.append(task.use)
        rounds.append(task.round)
        world.say("ann", task)
    assert 8 <= uses.count("gold") <= 35  # binomial(100, .2): outside with probability 4e-4
    assert 2 <= sum(rounds) <= 22
    assert set(rounds) == {0, 1}


def test_the_order_shown_is_fair_stored_and_different_per_rater() -> None:
    orders = [
        order_shown("key", user_id=f"u{n}", item_id="i", round=0, responses=2) for n in range(2000)
    ]
    first = sum(order == (0, 1) for order in orders)
    assert 900 < first < 1100  # 4.5 standard deviations
    assert order_shown("key", user_id="u1", item_id="i", round=0, responses=2) == orders[1]
    other = [
        order_shown("other", user_id=f"u{n}", item_id="i", round=0, responses=2)
        for n in range(2000)
    ]
    assert 900 < sum(a == b for a, b in zip(orders, other, strict=True)) < 1100


def test_a_verdict_as_shown_becomes_one_as_imported() -> None:
    assert as_imported({"kind": "scale", "grade": 2}, (1, 0)) == {"kind": "scale", "grade": 6}
    assert as_imported({"kind": "binary", "choice": 0}, (2, 0, 1)) == {
        "kind": "binary",
        "choice": 2,
    }
    ranked = {"kind": "ranking", "ranking": [[0], [1, 2]]}
    assert as_imported(ranked, (2, 0, 1)) == {"kind": "ranking", "ranking": [[2], [0, 1]]}


@pytest.mark.parametrize("ranking", [[[0, 1]], [[0], [1], [1]], [[0], []], [[0], ["1"]], 3, None])
def test_a_ranking_names_every_response_once(ranking: object) -> None:
    with pytest.raises(DataError, match="ranking"):
        check_verdict({"kind": "ranking", "ranking": ranking}, kind="ranking", responses=3)


def test_disagreement_is_the_share_against_the_most() -> None:
    grades = [{"kind": "scale", "grade": g} for g in (1, 2, 6, 4)]
    assert disagreement(grades) == 0.5
    assert disagreement(grades[:2]) == 0.0
    assert disagreement([]) == 0.0


def test_a_task_shown_before_can_be_seen_again_others_cannot(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    with world.store.read() as db:
        assert task_again(db, world.project, "ann", task.item_id, 0) == task
        with pytest.raises(StoreError, match="was not shown"):
            task_again(db, world.project, "bob", task.item_id, 0)
