"""R9: whatever people do, in whatever order, the store and a plain Python model agree."""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, select
from tests.store.model import TIE, Model, RefusedError
from tests.store.sizes import size
from tests.store.world import World, comparison

from preftune.errors import DataError, PreftuneError
from preftune.store import events
from preftune.store.adjudication import mark
from preftune.store.database import Database
from preftune.store.items import Use, add_items, of_comparison, withdraw
from preftune.store.labels import Answer, Vote, flag, revise, settle, skip, undo, vote
from preftune.store.projects import MemberState, change_state, guideline, publish_guideline
from preftune.store.queue import next_task
from preftune.store.schema import items, leases, members, projects
from preftune.store.snapshots import dataset_file, freeze, judged

T = TypeVar("T")
GOLD = {"overall": {"kind": "scale", "grade": 1}}
NUMBERS = itertools.count(1)  # of projects, comparisons and requests
RATERS = ("ann", "bob", "cleo")
people = st.sampled_from((*RATERS, "eve"))  # eve is in no project
picks = st.integers(0, 40)
grades = st.integers(1, 7)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Something that was asked under a key of the client's, and what came of it."""

    ask: Callable[[Connection], Any]
    answer: Any


class Labelling(RuleBasedStateMachine):
    """Everything that can be done to one project, done to the store and to the model."""

    world: World

    @initialize(
        raters=st.integers(1, 3),
        strategy=st.sampled_from(("least_labelled", "disagreement", "random")),
        gold=st.sampled_from((0.0, 0.3)),
        repeats=st.sampled_from((0.0, 0.2)),
    )
    def begin(self, raters: int, strategy: str, gold: float, repeats: float) -> None:
        self.wanted, self.asked = raters, list[Request]()
        self.project = self.world.project = self.world.new_project(
            f"project {next(NUMBERS)}",
            raters_per_item=raters,
            strategy=strategy,
            gold_share=gold,
            repeat_share=repeats,
        )
        self.model = Model(strategy=strategy, gold=gold > 0, repeats=repeats > 0)
        self.model.states = dict.fromkeys(("lead", *RATERS), "active")
        self.model.log = self.world.types()
        self.names: dict[str, str] = {}  # comparison → item

    @rule(count=st.integers(1, 4), use=st.sampled_from(("label", "label", "gold", "calibration")))
    def add(self, count: int, use: Use) -> None:
        gold = GOLD if use != "label" else None
        new = [of_comparison(comparison(next(NUMBERS)), use=use, gold=gold) for _ in range(count)]
        assert self.write(lambda db: add_items(db, self.project, new, by="lead")) == count
        assert self.write(lambda db: add_items(db, self.project, new, by="lead")) == 0
        with self.world.store.read() as db:
            query = select(items.c.comparison_id, items.c.id).order_by(items.c.position)
            rows = db.execute(query.where(items.c.project_id == self.project)).all()
        self.names = dict(map(tuple, rows))
        for one in new:
            self.model.add(self.names[one.id], use=use, wanted=self.wanted)
        self.model.log.append("imported")

    @rule(who=people)
    def next(self, who: str) -> None:
        now_s = time.time() + 3600 * self.model.hour
        allowed, task = self.both(
            lambda: self.model.next(who),
            lambda db: next_task(db, self.project, who, now_s=now_s),
        )
        if allowed is None:
            return
        assert (None if task is None else (task.item_id, task.round)) in allowed
        if task is not None:
            self.model.show(who, task.item_id, task.round, task.shown)

    @rule(who=people, grade=grades)
    def next_and_vote(self, who: str, grade: int) -> None:
        self.next(who)
        mine = [one for one in self.model.orders if one[0] == who and self.holds(one)]
        if mine:
            self.say(vote, self.model.vote, mine[0], grade)

    @precondition(lambda self: self.model.orders)
    @rule(pick=picks, grade=grades)
    def vote_on_any_item_shown(self, pick: int, grade: int) -> None:
        self.say(vote, self.model.vote, self.any(list(self.model.orders), pick), grade)

    @precondition(lambda self: self.model.orders)
    @rule(pick=picks, grade=grades)
    def revise(self, pick: int, grade: int) -> None:
        one = self.any(self.model.last or list(self.model.orders), pick)
        self.say(revise, self.model.revise, one, grade)

    @rule(who=people)
    def undo(self, who: str) -> None:
        key = self.key()
        self.both(
            lambda: self.model.undo(who),
            lambda db: undo(db, self.project, who, key),
            remember=True,
            same=True,
        )

    @precondition(lambda self: self.model.things)
    @rule(who=people, pick=picks, how=st.sampled_from(("skipped", "flagged")))
    def leave(self, who: str, pick: int, how: str) -> None:
        item_id, key = self.any_item(pick), self.key()

        def ask(db: Connection) -> bool:
            if how == "skipped":
                return skip(db, self.project, who, item_id=item_id, key=key)
            return flag(db, self.project, who, item_id=item_id, key=key, why="odd")

        self.both(lambda: self.model.leave(who, item_id, how), ask, remember=True)

    @precondition(lambda self: self.model.things)
    @rule(pick=picks, grade=grades)
    def settle(self, pick: int, grade: int) -> None:
        item_id = self.any_item(pick)
        said = self.verdict(item_id, 0, grade)
        side = TIE if grade == 4 else int(grade > 4)
        self.both(
            lambda: self.model.settle(item_id, side),
            lambda db: settle(db, self.project, "lead", said, shown=(0, 1)),
            remember=True,
        )

    @precondition(lambda self: self.model.things)
    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        item_id = self.any_item(pick)
        self.model.withdraw(item_id)
        self.write(lambda db: withdraw(db, self.project, [item_id], by="lead"))

    @precondition(lambda self: self.model.things)
    @rule(pick=picks, use=st.sampled_from(("label", "gold", "calibration")))
    def mark(self, pick: int, use: Use) -> None:
        item_id, gold = self.any_item(pick), GOLD if use != "label" else {}
        self.model.mark(item_id, use)
        self.write(
            lambda db: mark(db, self.project, item_id, use=use, gold=gold, why="", by="lead")
        )

    @rule(who=people, state=st.sampled_from(("active", "active", "paused", "excluded")))
    def pause_or_exclude(self, who: str, state: MemberState) -> None:
        self.both(
            lambda: self.model.place(who, state),
            lambda db: change_state(db, self.project, who, state, by="lead"),
        )

    @rule()
    def an_hour_passes(self) -> None:
        self.model.hour += 1

    @rule()
    def publish(self) -> None:
        def ask(db: Connection) -> int:
            base = guideline(db, self.project).version
            return publish_guideline(db, self.project, f"{base}", base=base, by="lead")

        self.write(ask)
        self.model.log.append("guideline_published")

    @rule()
    def freeze(self) -> None:
        with self.world.store.read() as db:
            said = judged(db, self.project)
        found = Counter(
            (self.names[one.comparison_id.removesuffix("~swapped")], one.rater.id, side)
            for one in said.judgments
            for side in [imported_side(one.grade or 0, swapped="~" in one.comparison_id)]
        )
        assert found == self.model.holding()
        try:
            first, again = (
                freeze(self.world.store, self.project, name="any", by="lead") for _ in range(2)
            )
        except DataError:
            assert not any(side != TIE for _, _, side in found) or cancel_out(found)
            return
        assert first == again
        assert 0 < first.manifest["pairs"] <= len({item_id for item_id, _, _ in found})
        assert dataset_file(self.world.store, first.hash).is_file()
        new = self.world.types().count("frozen") - self.model.log.count("frozen")
        assert new in (0, 1)
        self.model.log += ["frozen"] * new

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def the_same_request_again(self, pick: int) -> None:
        request = self.any(self.asked, pick)
        answer = self.write(request.ask)
        if isinstance(answer, Answer):
            assert (answer.again, answer.seq) == (True, request.answer.seq)
        else:
            assert answer == (True if request.answer is False else request.answer)

    @invariant()
    def they_agree(self) -> None:
        """Compare every count that the store keeps, and verify the chain."""
        model = self.model
        with self.world.store.read() as db:
            assert events.verify(db, self.project) == len(model.log)
            row = db.execute(select(projects).where(projects.c.id == self.project)).one()
            judged_ = dict(
                db.execute(
                    select(members.c.user_id, members.c.judged).where(
                        members.c.project_id == self.project
                    )
                ).all()
            )
            rows = db.execute(select(items).where(items.c.project_id == self.project)).all()
            held = db.execute(
                select(leases.c.item_id, leases.c.user_id, leases.c.round).where(
                    leases.c.project_id == self.project
                )
            ).all()
        assert (row.items_open, row.items_done) == (
            model.to_label("open"),
            model.to_label("done", "settled"),
        )
        assert judged_ == {who: model.judged(who) for who in model.states}
        assert set(map(tuple, held)) == {
            (item_id, who, round)
            for item_id, thing in model.things.items()
            for who, (round, _) in thing.held.items()
        }
        assert len(rows) == len(model.things)
        for found in rows:
            thing = model.things[found.id]
            assert (found.state, found.use) == (thing.state, thing.use)
            assert (found.votes, found.held) == (len(thing.raters), len(thing.held))
            assert found.disagreement == pytest.approx(thing.disagreement)
            if thing.use == "label" and not thing.exempt:
                assert len(thing.raters | thing.held.keys()) <= thing.wanted

    def both(
        self,
        think: Callable[[], T],
        ask: Callable[[Connection], Any],
        *,
        remember: bool = False,
        same: bool = False,
    ) -> tuple[T | None, Any]:
        """Do it to both; what the model refuses, the store refuses, and the other way round."""
        try:
            expected = think()
        except RefusedError:
            with pytest.raises(PreftuneError):
                self.write(ask)
            return None, None
        answer = self.write(ask)
        assert not same or answer == expected
        if remember:
            self.asked.append(Request(ask=ask, answer=answer))
        return expected, answer

    def say(
        self,
        act: Callable[[Connection, str, str, Vote], Answer],
        think: Callable[[str, str, int, int], None],
        one: tuple[str, str, int],
        grade: int,
    ) -> None:
        who, item_id, round = one
        said = self.verdict(item_id, round, grade)
        _, answer = self.both(
            lambda: think(who, item_id, round, grade),
            lambda db: act(db, self.project, who, said),
            remember=True,
        )
        assert answer is None or (answer.seq, answer.again) == (len(self.model.log), False)

    def write(self, work: Callable[[Connection], T]) -> T:
        return self.world.store.write(work)

    def verdict(self, item_id: str, round: int, grade: int) -> Vote:
        verdicts = {"overall": {"kind": "scale", "grade": grade}}
        return Vote(key=self.key(), item_id=item_id, round=round, verdicts=verdicts)

    def holds(self, one: tuple[str, str, int]) -> bool:
        who, item_id, round = one
        return self.model.things[item_id].held.get(who, (None, 0))[0] == round

    def any_item(self, pick: int) -> str:
        return self.any(list(self.model.things), pick)

    @staticmethod
    def any(many: list[T], pick: int) -> T:
        return many[-1 - pick % len(many)]  # the latest first: it is what shrinks best

    @staticmethod
    def key() -> str:
        return f"request-{next(NUMBERS)}"


def imported_side(grade: int, *, swapped: bool) -> int:
    return TIE if grade == 4 else int((grade > 4) != swapped)


def cancel_out(found: Counter[tuple[str, str, int]]) -> bool:
    """Return whether on each item the two sides or the ties leave none ahead."""
    voices: dict[str, dict[str, int]] = {}
    for (item_id, who, side), times in found.items():
        mine = voices.setdefault(item_id, {})
        mine[who] = mine.get(who, 0) + times * {TIE: 0, 0: 1, 1: -1}[side]
    for votes in voices.values():
        first, second = (sum(s * v > 0 for v in votes.values()) for s in (1, -1))
        if first != second and max(first, second) > len(votes) - first - second:
            return False
    return True


def check(store: Database, *, runs: int, steps: int) -> None:
    class Here(Labelling):
        world = World(store, raters=RATERS)

    run_state_machine_as_test(
        Here, settings=settings(max_examples=runs, stateful_step_count=steps, deadline=None)
    )


def test_r09_the_store_does_what_a_plain_model_does(store: Database) -> None:
    quick = store.url.get_backend_name() == "sqlite"
    runs = size(100 if quick else 30, 2000)
    check(store, runs=runs, steps=size(30, 50))
