"""What the store should do, in plain Python: the other side of the model check (R9).

Nothing here is shared with the store: a list of events, items with who said what of them, and the
rules in words. A request that the store has to refuse raises `RefusedError`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

LEASE_H = 0.5
TIE = -1


class RefusedError(Exception):
    """The store has to refuse this, and to change nothing."""


@dataclass(kw_only=True)
class Thing:
    """An item, and who said what of it."""

    place: int
    use: str
    wanted: int
    state: str = "open"
    said: dict[tuple[str, int], int] = field(default_factory=dict)  # rater, round → side, in order
    held: dict[str, tuple[int, float]] = field(default_factory=dict)  # rater → round, until (hours)
    word: int | None = None  # of the lead who settled it: a side
    exempt: bool = False  # was marked, or judged by somebody who no longer held it

    @property
    def raters(self) -> set[str]:
        return {who for who, _ in self.said}

    @property
    def fresh_for_more(self) -> bool:
        return self.state == "open" and len(self.raters) + len(self.held) < self.wanted

    @property
    def disagreement(self) -> float:
        sides = Counter({who: side for (who, _), side in self.said.items()}.values())
        return 1 - max(sides.values()) / sides.total() if sides else 0.0

    def count(self) -> None:
        """Open or done as the number of raters says; settled and withdrawn items stay so."""
        if self.state in ("open", "done"):
            self.state = "done" if len(self.raters) >= self.wanted else "open"


@dataclass(kw_only=True)
class Model:
    """One project."""

    strategy: str
    gold: bool  # items with a known answer are mixed in
    repeats: bool  # and own earlier ones
    things: dict[str, Thing] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)  # of members
    seen: set[tuple[str, str]] = field(default_factory=set)  # item, rater: judged or left
    orders: dict[tuple[str, str, int], tuple[int, ...]] = field(default_factory=dict)  # as shown
    last: list[tuple[str, str, int]] = field(default_factory=list)  # rater, item, round: stand
    hour: int = 0
    log: list[str] = field(default_factory=list)

    def add(self, item_id: str, *, use: str, wanted: int) -> None:
        self.things[item_id] = Thing(place=len(self.things) + 1, use=use, wanted=wanted)

    def next(self, who: str) -> set[tuple[str, int] | None]:
        """Return what may come next: item and round; None: nothing is left."""
        self._may_work(who)
        for thing in self.things.values():
            late = [rater for rater, (_, until) in thing.held.items() if until < self.hour]
            for rater in late:
                del thing.held[rater]
                thing.exempt = True
        mine = [
            (until, item_id, round)
            for item_id, thing in self.things.items()
            for rater, (round, until) in thing.held.items()
            if rater == who
        ]
        if mine:
            latest = max(until for until, _, _ in mine)
            return {(item_id, round) for until, item_id, round in mine if until == latest}
        first = next(self._known(who, "calibration"), None)
        if first is not None:
            return {(first, 0)}
        found: set[tuple[str, int] | None] = set(self._by_strategy(who)) or {None}
        if self.gold:
            found |= {(item_id, 0) for item_id in self._known(who, "gold")}
        if self.repeats:
            found |= {(item_id, 1) for item_id in self._again(who)}
        return found

    def show(self, who: str, item_id: str, round: int, order: tuple[int, ...]) -> None:
        """Note that a rater has an item before them; the same order as ever."""
        self.things[item_id].held.setdefault(who, (round, self.hour + LEASE_H))
        if (who, item_id, round) not in self.orders:
            self.log.append("shown")
        assert self.orders.setdefault((who, item_id, round), order) == order

    def vote(self, who: str, item_id: str, round: int, grade: int) -> None:
        self._may_work(who)
        thing = self.things[item_id]
        if (who, item_id, round) not in self.orders or (who, round) in thing.said:
            raise RefusedError
        thing.exempt |= who not in thing.held
        thing.said[who, round] = self.side(who, item_id, round, grade)
        self.last.append((who, item_id, round))
        self._left(who, item_id)
        thing.count()
        self.log.append("voted")

    def revise(self, who: str, item_id: str, round: int, grade: int) -> None:
        self._may_work(who)
        thing = self.things[item_id]
        if thing.said.pop((who, round), None) is None:
            raise RefusedError
        thing.said[who, round] = self.side(who, item_id, round, grade)
        self.last.remove((who, item_id, round))
        self.last.append((who, item_id, round))
        self.log.append("revised")

    def undo(self, who: str) -> str:
        self._may_work(who)
        mine = [one for one in self.last if one[0] == who]
        if not mine:
            raise RefusedError
        _, item_id, round = mine[-1]
        self.last.remove(mine[-1])
        thing = self.things[item_id]
        del thing.said[who, round]
        thing.held[who] = (round, LEASE_H)  # of the real clock, which stands still here
        thing.count()
        self.log.append("undone")
        return item_id

    def leave(self, who: str, item_id: str, how: str) -> None:
        self._may_work(who)
        self._left(who, item_id)
        self.log.append(how)

    def settle(self, item_id: str, side: int) -> None:
        if self.things[item_id].state == "withdrawn":
            raise RefusedError
        self.things[item_id].state = "settled"
        self.things[item_id].word = side
        self.log.append("settled")

    def withdraw(self, item_id: str) -> None:
        self.things[item_id].state = "withdrawn"
        self.log.append("withdrawn")

    def mark(self, item_id: str, use: str) -> None:
        self.things[item_id].use = use
        self.things[item_id].exempt = True
        self.log.append("marked")

    def place(self, who: str, state: str) -> None:
        if who not in self.states:
            raise RefusedError
        self.states[who] = state
        self.log.append("member_state")

    def judged(self, who: str) -> int:
        """Return how many times a rater judged that stand."""
        return sum(one[0] == who for one in self.last)

    def to_label(self, *states: str) -> int:
        return sum(t.use == "label" and t.state in states for t in self.things.values())

    def holding(self) -> Counter[tuple[str, str, int]]:
        """Return what a dataset is made of: item, rater, side; the lead's word on settled ones."""
        found = Counter[tuple[str, str, int]]()
        for item_id, thing in self.things.items():
            if thing.use != "label":
                continue
            if thing.state == "settled" and thing.word is not None:
                found[item_id, "lead", thing.word] += 1
            elif thing.state in ("open", "done"):
                kept = {w: s for w, s in thing.said.items() if self.states[w[0]] != "excluded"}
                found.update((item_id, who, side) for (who, _), side in kept.items())
        return found

    def side(self, who: str, item_id: str, round: int, grade: int) -> int:
        """Return which response, as imported, a grade on two as shown prefers."""
        if grade == 4:
            return TIE
        return self.orders[who, item_id, round][0 if grade < 4 else 1]

    def _may_work(self, who: str) -> None:
        if self.states.get(who) != "active":
            raise RefusedError

    def _left(self, who: str, item_id: str) -> None:
        self.things[item_id].held.pop(who, None)
        self.seen.add((item_id, who))

    def _known(self, who: str, use: str) -> Iterator[str]:
        for item_id, thing in self.things.items():
            if thing.use == use and thing.state != "withdrawn" and (item_id, who) not in self.seen:
                yield item_id

    def _again(self, who: str) -> Iterator[str]:
        """Yield items judged once, before the last ten verdicts."""
        mine = [item_id for rater, item_id, _ in self.last if rater == who]
        for item_id, thing in self.things.items():
            rounds = {round for rater, round in thing.said if rater == who}
            if thing.use == "label" and rounds == {0} and item_id not in mine[-10:]:
                yield item_id

    def _by_strategy(self, who: str) -> Iterator[tuple[str, int]]:
        wanting = {
            item_id: thing
            for item_id, thing in self.things.items()
            if thing.use == "label" and thing.fresh_for_more and (item_id, who) not in self.seen
        }
        if not wanting:
            return
        if self.strategy == "random":
            yield from ((item_id, 0) for item_id in wanting)
            return

        def order(item_id: str) -> tuple[float, int, int]:
            thing = wanting[item_id]
            votes = len(thing.raters)
            if self.strategy == "disagreement":
                return -thing.disagreement, -votes, thing.place
            return 0.0, votes, thing.place

        yield min(wanting, key=order), 0
