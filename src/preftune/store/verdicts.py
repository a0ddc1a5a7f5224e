"""Every verdict that holds in a project as numpy columns: read once, counted in many ways."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, case, or_, select

from preftune.comparisons.scales import signed_strength
from preftune.store.items import as_imported
from preftune.store.labels import side
from preftune.store.schema import items, judgments

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MANY = 20_000  # rows fetched at a time
TIE, REWRITTEN = -1, -2  # as a side
REWRITE = '{"kind":"rewrite"}'  # stands for the text of a rewrite, which no count needs


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What raters said, one row [V] per verdict and dimension; a lead's last words are not in.

    `item`, `user` and `dimension` are places in `items`, `users` and `dimensions`.
    """

    items: tuple[str, ...]
    users: tuple[str, ...]
    dimensions: tuple[str, ...]
    item: Ints
    user: Ints
    dimension: Ints
    round: Ints
    seq: Ints
    guideline: Ints  # version
    seconds: Floats  # nan: not measured
    right: Ints  # on a known answer: 1 right, 0 wrong; -1: no known answer
    side: Ints  # place of the best response as imported, or TIE; of a rewrite REWRITTEN
    signed: Floats  # two responses: -3..3, above 0 where the first imported is better; else nan
    first: Ints  # two responses: 1 chose the first shown, 0 the second, -1 neither
    swapped: Ints  # two responses: 1 where they were shown in the reverse order
    counts: NDArray[np.bool_]  # on an item that is to be labelled, and neither settled nor gone

    def __len__(self) -> int:
        return len(self.item)

    def where(self, kept: NDArray[Any]) -> "Verdicts":
        """Return the rows for which a mask is true, or those at these places."""
        return replace(self, **{name: getattr(self, name)[kept] for name in COLUMNS})


COLUMNS = (
    "item",
    "user",
    "dimension",
    "round",
    "seq",
    "guideline",
    "seconds",
    "right",
    "side",
    "signed",
    "first",
    "swapped",
    "counts",
)

PLACES = {"item": 0, "user": 1, "dimension": 2, "round": 4, "seq": 5, "guideline": 6}


def read_verdicts(db: Connection, project_id: str) -> Verdicts:
    """Return all verdicts of raters that hold; 1,000,000 take seconds, not minutes."""
    value = case((judgments.c.kind == "rewrite", REWRITE), else_=judgments.c.value)
    query = select(
        judgments.c.item_id,
        judgments.c.user_id,
        judgments.c.dimension,
        value,
        judgments.c.shown,
        judgments.c.round,
        judgments.c.seq,
        judgments.c.guideline,
        judgments.c.seconds,
        judgments.c.right,
    ).where(judgments.c.project_id == project_id, judgments.c.live, judgments.c.settles.is_(False))
    item, user, dimension, verdict = (_Codes() for _ in range(4))
    parts = []
    for rows in db.execute(query.execution_options(yield_per=MANY)).partitions():
        items_, users, dimensions, values, shown, *numbers = zip(*map(tuple, rows), strict=True)
        codes = (
            item.of(items_),
            user.of(users),
            dimension.of(dimensions),
            verdict.of(zip(values, shown, strict=True)),
        )
        parts.append(np.array([*codes, *numbers], dtype=np.float64))  # None becomes nan
    whole = np.concatenate(parts, axis=1) if parts else np.zeros((9, 0))
    decoded = np.array([_decoded(*pair) for pair in verdict.place], np.float64).reshape(-1, 4)
    said = decoded[whole[3].astype(np.int64)].T
    apart = _apart(db, project_id)
    counts = np.array([name not in apart for name in item.place], dtype=np.bool_)
    ints = {name: whole[at].astype(np.int64) for name, at in PLACES.items()}
    return Verdicts(
        items=tuple(item.place),
        users=tuple(user.place),
        dimensions=tuple(dimension.place),
        **ints,
        seconds=whole[7],
        right=np.nan_to_num(whole[8], nan=-1.0).astype(np.int64),
        side=said[0].astype(np.int64),
        signed=said[1],
        first=said[2].astype(np.int64),
        swapped=said[3].astype(np.int64),
        counts=counts[ints["item"]],
    )


def last_of(keys: Sequence[Ints], said: Verdicts) -> Ints:
    """Return the places of the last verdict for each combination of keys, in the order of these."""
    order = np.lexsort((said.seq, *reversed(keys)))
    if not len(order):
        return order
    same = np.ones(len(order) - 1, dtype=np.bool_)
    for key in keys:
        same &= np.diff(key[order]) == 0
    return np.asarray(order[np.append(~same, True)], dtype=np.int64)


class _Codes:
    """Numbers names in the order they come in."""

    def __init__(self) -> None:
        self.place: dict[Any, int] = {}

    def of(self, column: Iterable[Any]) -> list[int]:
        place = self.place
        return [place.setdefault(name, len(place)) for name in column]


def _decoded(value: str, shown: str) -> tuple[int, float, int, int]:
    """Return side, signed strength, first shown chosen, and order of one kind of verdict."""
    order = [int(at) for at in shown.split(",")]
    verdict = msgspec.json.decode(value)
    if verdict["kind"] == "rewrite":
        return REWRITTEN, np.nan, -1, 0
    best = side(as_imported(verdict, order))
    place = TIE if best == "tie" else int(best)
    if len(order) != 2:
        return place, np.nan, -1, 0
    swapped = int(order == [1, 0])
    first = -1 if place == TIE else int(order[0] == place)
    return place, _signed(verdict, place, swapped), first, swapped


def _signed(verdict: dict[str, Any], place: int, swapped: int) -> float:
    if verdict["kind"] == "scale":
        return float(signed_strength(verdict["grade"])) * (-1 if swapped else 1)
    return 0.0 if place == TIE else 1.0 - 2.0 * place


def _apart(db: Connection, project_id: str) -> set[str]:
    """Return the items on which raters' verdicts make no pair: known answers, settled, gone."""
    apart = or_(items.c.use != "label", items.c.state.in_(("settled", "withdrawn")))
    return set(db.scalars(select(items.c.id).where(and_(items.c.project_id == project_id, apart))))
