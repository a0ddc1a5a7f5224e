"""What raters say: shown, voted, revised, undone, skipped, flagged, settled.

Every request carries a key of the client's own. A request that comes again under its key changes
nothing and gets the answer of the first.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, bindparam, insert, select, update

from preftune.errors import DataError, StoreError
from preftune.store import events
from preftune.store.items import Item, Verdict, as_imported, check_verdict, item
from preftune.store.leases import hold_again, let_go
from preftune.store.prepared import Prepared
from preftune.store.projects import (
    ProjectSettings,
    Workplace,
    count_items,
    count_judged,
    guideline,
    project,
    recount_items,
    workplace,
)
from preftune.store.schema import items, judgments
from preftune.types import content_id

LONGEST_WHY = 4000  # characters
LONGEST_REWRITE = 100_000

_MINE = and_(
    judgments.c.item_id == bindparam("item"),
    judgments.c.user_id == bindparam("user"),
    judgments.c.round == bindparam("nth"),
    judgments.c.settles.is_(False),
)
_STANDS = Prepared(select(judgments.c.id).where(_MINE, judgments.c.live).limit(1))
_OVER = update(judgments).where(_MINE).values(live=False)
_INSERT = Prepared(
    insert(judgments).values({c.key: bindparam(f"the_{c.key}") for c in judgments.c})
)
_SAID = Prepared(
    select(judgments.c.user_id, judgments.c.value, judgments.c.shown)
    .where(
        judgments.c.item_id == bindparam("item"), judgments.c.live, judgments.c.settles.is_(False)
    )
    .order_by(judgments.c.seq, judgments.c.dimension)
)
_COUNTED = Prepared(
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(
        votes=bindparam("votes"), state=bindparam("state"), disagreement=bindparam("disagreement")
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """What a rater sends: one verdict for each dimension, on responses as shown."""

    key: str
    item_id: str
    round: int
    verdicts: dict[str, Verdict]
    why: dict[str, str] = field(default_factory=dict)  # by dimension
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the rater's page hears: the vote is on disk."""

    seq: int  # of the event
    again: bool  # the same request had come before
    right: dict[str, bool] = field(default_factory=dict)  # calibration only: by dimension
    expected: dict[str, Verdict] = field(default_factory=dict)  # calibration only, as shown


def vote(db: Connection, project_id: str, user_id: str, said: Vote) -> Answer:
    """Record a rater's verdicts on an item that was shown to them.

    Raises:
        StoreError: the rater may not work here, the item was never shown, or it was judged already.
        DataError: the verdicts do not answer what was asked.
    """
    it = item(db, project_id, said.item_id)
    before, shown = _before_and_shown(db, project_id, user_id, said)
    if before is not None:
        return _answer(it, said, before, again=True)
    place = workplace(db, project_id, user_id)
    _check(said, it, place.project.settings)
    if shown is None:
        raise StoreError(f"item {it.id}: was not shown to you. Fetch the next one.")
    if _live(db, user_id, it.id, said.round):
        raise StoreError(f"item {it.id}: you judged it already. Change that verdict instead.")
    event = _append(db, place, "voted", user_id, said, shown)
    _insert(db, it, event, said, shown)
    count_judged(db, project_id, user_id, 1)
    let_go(db, user_id, it.id)
    _refresh(db, it)
    return _answer(it, said, event, again=False)


def revise(db: Connection, project_id: str, user_id: str, said: Vote) -> Answer:
    """Replace a rater's own verdicts on an item; the earlier ones stay in the log.

    Raises:
        StoreError: there is nothing to replace, or the rater may not work here.
        DataError: as `vote`.
    """
    it = item(db, project_id, said.item_id)
    before, shown = _before_and_shown(db, project_id, user_id, said)
    if before is not None:
        return _answer(it, said, before, again=True)
    place = workplace(db, project_id, user_id)
    _check(said, it, place.project.settings)
    if shown is None or not _live(db, user_id, it.id, said.round):
        raise StoreError(f"item {it.id}: you have not judged it yet.")
    event = _append(db, place, "revised", user_id, said, shown)
    _retire(db, user_id, it.id, said.round)
    _insert(db, it, event, said, shown)
    _refresh(db, it)
    return _answer(it, said, event, again=False)


def undo(db: Connection, project_id: str, user_id: str, key: str) -> str:
    """Take back a rater's last verdict, and return the item, which is before them again.

    Raises:
        StoreError: there is nothing to take back.
    """
    if (before := _before(db, project_id, user_id, key, {})) is not None:
        return str(before.item_id)
    where = workplace(db, project_id, user_id).project
    query = (
        select(judgments.c.item_id, judgments.c.round, judgments.c.seq)
        .where(
            judgments.c.project_id == project_id,
            judgments.c.user_id == user_id,
            judgments.c.live,
            judgments.c.settles.is_(False),
        )
        .order_by(judgments.c.seq.desc())
        .limit(1)
    )
    last = db.execute(query).one_or_none()
    if last is None:
        raise StoreError("undo: you have not judged anything yet.")
    told = {"takes_back": last.seq, "round": last.round}
    events.append(
        db, project_id, type="undone", user_id=user_id, data=told, item_id=last.item_id, key=key
    )
    _retire(db, user_id, last.item_id, last.round)
    count_judged(db, project_id, user_id, -1)
    hold_again(db, where, user_id, last.item_id, round=last.round, now_s=time.time())
    _refresh(db, item(db, project_id, last.item_id))
    return str(last.item_id)


def skip(db: Connection, project_id: str, user_id: str, *, item_id: str, key: str) -> bool:
    """Leave an item to others; it is not shown to this rater again. Whether it had been left."""
    return _note(db, project_id, user_id, "skipped", item_id=item_id, key=key, data={})


def flag(
    db: Connection, project_id: str, user_id: str, *, item_id: str, key: str, why: str
) -> bool:
    """Tell the lead that something is wrong with an item, and leave it, as `skip` does."""
    told = {"why": why[:LONGEST_WHY]}
    return _note(db, project_id, user_id, "flagged", item_id=item_id, key=key, data=told)


def settle(
    db: Connection, project_id: str, user_id: str, said: Vote, *, shown: Sequence[int]
) -> Answer:
    """Record a lead's last word on an item about which raters disagree.

    Raises:
        StoreError: no such item, or it was withdrawn.
        DataError: as `vote`.
    """
    data = msgspec.to_builtins(said)
    if (before := _before(db, project_id, user_id, said.key, data)) is not None:
        return Answer(seq=before.seq, again=True)
    it = item(db, project_id, said.item_id)
    if it.state == "withdrawn":
        raise StoreError(f"item {it.id}: was withdrawn. There is nothing to settle.")
    _check(said, it, project(db, project_id).settings)
    told = {**data, "shown": list(shown), "guideline": guideline(db, project_id).version}
    event = events.append(
        db, project_id, type="settled", user_id=user_id, data=told, item_id=it.id, key=said.key
    )
    earlier = and_(judgments.c.item_id == it.id, judgments.c.settles)
    db.execute(update(judgments).where(earlier).values(live=False))
    _insert(db, it, event, said, shown, settles=True)
    db.execute(update(items).where(items.c.id == it.id).values(state="settled"))
    recount_items(db, project_id)
    return Answer(seq=event.seq, again=False)


def disagreement(verdicts: Sequence[Verdict]) -> float:
    """Return the share of raters who did not say what most said: 0 one voice, ½ two against two.

    Verdicts of a grade count by the side they take.
    """
    said = Counter(side(verdict) for verdict in verdicts)
    return 1 - max(said.values()) / said.total() if said else 0.0


def side(verdict: Mapping[str, Any]) -> str:
    """Return which response a verdict prefers, as imported: its place, or "tie"."""
    kind = str(verdict["kind"])
    if kind == "binary":
        return str(verdict["choice"])
    if kind == "scale":
        return "tie" if verdict["grade"] == 4 else str(int(verdict["grade"] > 4))
    if kind == "ranking":
        best = verdict["ranking"][0]
        return str(best[0]) if len(best) == 1 else "tie"
    return kind


def _before(
    db: Connection, project_id: str, user_id: str, key: str, data: dict[str, Any]
) -> events.Event | None:
    """Return the event of an earlier request under this key, which must have been the same."""
    return _same(events.find(db, project_id, user_id, key), data)


def _before_and_shown(
    db: Connection, project_id: str, user_id: str, said: Vote
) -> tuple[events.Event | None, list[int] | None]:
    """Return the event of an earlier request like this, and in which order the item was shown."""
    keys = (said.key, shown_key(said.item_id, said.round))
    before, shown = events.find_two(db, project_id, user_id, keys)
    return _same(before, msgspec.to_builtins(said)), shown.data["shown"] if shown else None


def _same(found: events.Event | None, data: dict[str, Any]) -> events.Event | None:
    if found is not None and any(found.data.get(name) != value for name, value in data.items()):
        raise StoreError(f"request {found.key}: another one came under this key. Take a new key.")
    return found


def _check(said: Vote, it: Item, asked: ProjectSettings) -> None:
    if set(said.verdicts) != set(asked.dimensions):
        raise DataError(f"verdicts: needed are {', '.join(asked.dimensions)}. Give one for each.")
    count = len(it.content.responses)
    for verdict in said.verdicts.values():
        check_verdict(verdict, kind=it.kind, responses=count, tie=asked.tie)
        if len(str(verdict.get("rewrite") or "")) > LONGEST_REWRITE:
            raise DataError(f"rewrite: over {LONGEST_REWRITE} characters. Shorten it.")
    if any(len(text) > LONGEST_WHY for text in said.why.values()):
        raise DataError(f"why: over {LONGEST_WHY} characters. Shorten it.")
    if not set(said.why) <= set(asked.dimensions):
        raise DataError(f"why: dimensions are {', '.join(asked.dimensions)}.")


def shown_key(item_id: str, round: int) -> str:
    """Return the key of the event that shows an item to a rater, once per round."""
    return f"shown:{item_id}:{round}"


def _live(db: Connection, user_id: str, item_id: str, round: int) -> bool:
    return _STANDS.first(db, user=user_id, item=item_id, nth=round) is not None


def _append(
    db: Connection, place: Workplace, type: str, user_id: str, said: Vote, shown: Sequence[int]
) -> events.Event:
    return events.append(
        db,
        place.project.id,
        type=type,
        user_id=user_id,
        data={**msgspec.to_builtins(said), "shown": list(shown), "guideline": place.guideline},
        item_id=said.item_id,
        key=said.key,
    )


def _insert(
    db: Connection,
    it: Item,
    event: events.Event,
    said: Vote,
    shown: Sequence[int],
    *,
    settles: bool = False,
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": content_id("j", event.project_id, event.seq, dimension),
            "project_id": event.project_id,
            "item_id": it.id,
            "user_id": event.user_id,
            "seq": event.seq,
            "round": said.round,
            "dimension": dimension,
            "kind": verdict["kind"],
            "value": msgspec.json.encode(verdict).decode(),
            "shown": ",".join(map(str, shown)),
            "why": said.why.get(dimension, ""),
            "guideline": event.data["guideline"],
            "seconds": said.seconds,
            "right": is_right(verdict, it.gold.get(dimension), shown),
            "settles": settles,
            "live": True,
            "at": event.at,
        }
        for dimension, verdict in said.verdicts.items()
    ]
    for row in rows:
        _INSERT.run(db, **{f"the_{name}": value for name, value in row.items()})


def is_right(verdict: Verdict, expected: Verdict | None, shown: Sequence[int]) -> bool | None:
    """Return whether a verdict takes the side of the known answer; None without one."""
    if expected is None:
        return None
    return side(as_imported(verdict, shown)) == side(expected)


def _answer(it: Item, said: Vote, event: events.Event, *, again: bool) -> Answer:
    """Return what the rater hears; the known answer only on calibration items."""
    if it.use != "calibration":
        return Answer(seq=event.seq, again=again)
    shown = event.data["shown"]
    back = [shown.index(place) for place in range(len(shown))]
    return Answer(
        seq=event.seq,
        again=again,
        right={
            dimension: bool(is_right(verdict, it.gold[dimension], shown))
            for dimension, verdict in said.verdicts.items()
        },
        expected={dimension: as_imported(gold, back) for dimension, gold in it.gold.items()},
    )


def _retire(db: Connection, user_id: str, item_id: str, round: int) -> None:
    db.execute(_OVER, {"user": user_id, "item": item_id, "nth": round})


def _note(
    db: Connection,
    project_id: str,
    user_id: str,
    type: str,
    *,
    item_id: str,
    key: str,
    data: dict[str, Any],
) -> bool:
    if _before(db, project_id, user_id, key, data) is not None:
        return True
    workplace(db, project_id, user_id)
    item(db, project_id, item_id)
    events.append(db, project_id, type=type, user_id=user_id, data=data, item_id=item_id, key=key)
    let_go(db, user_id, item_id)
    return False


def _refresh(db: Connection, it: Item) -> None:
    """Count anew what an item has: raters, disagreement, and whether it is done."""
    last = {
        row.user_id: as_imported(
            msgspec.json.decode(row.value), [int(at) for at in row.shown.split(",")]
        )
        for row in _SAID.all(db, item=it.id)
    }
    state = it.state
    if state in {"open", "done"}:
        state = "done" if len(last) >= it.wanted else "open"
    found = {"votes": len(last), "state": state, "disagreement": disagreement(list(last.values()))}
    _COUNTED.run(db, item=it.id, **found)
    if it.use == "label":
        ended = (state == "done") - (it.state == "done")
        count_items(db, it.project_id, opened=-ended, ended=ended)
