"""From what raters said to a dataset that never changes again, named by the hash of its rows."""

import hashlib
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec
from sqlalchemy import Connection, bindparam, insert, select

from preftune.comparisons.aggregate import pairs_from_judgments, rankings_from_judgments
from preftune.comparisons.votes import SWAPPED
from preftune.errors import DataError, StoreError
from preftune.files import atomic_open, fsync_dir
from preftune.records import encode
from preftune.store import events
from preftune.store.database import Database
from preftune.store.holding_votes import holding_votes
from preftune.store.items import Content, Verdict, as_imported
from preftune.store.projects import guidelines_of, members_of, project
from preftune.store.reading import Readable
from preftune.store.schema import items, judgments, snapshots
from preftune.types import (
    Comparison,
    Judgment,
    PreferencePair,
    Provenance,
    Rater,
    Response,
    assistant,
    content_id,
)

if TYPE_CHECKING:
    from preftune.comparisons.rater_model import RaterModel

Policy = Literal["votes", "raters"]
KINDS = ("rows", "pairs", "ties", "identical", "ranked")  # what a manifest counts
MANY = 500  # items fetched at a time

_ITEMS = (
    select(items.c.id, items.c.comparison_id, items.c.content, items.c.state)
    .where(items.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(items.c.position)
)
_SAID = (
    select(judgments)
    .where(judgments.c.item_id.in_(bindparam("ids", expanding=True)), judgments.c.live)
    .order_by(judgments.c.seq, judgments.c.dimension)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What was said in a project, in the records that the rest of preftune works on."""

    comparisons: list[Comparison] = field(default_factory=list)
    judgments: list[Judgment] = field(default_factory=list)
    rewrites: list[PreferencePair] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """The rows of a dataset, written to the store's folder."""

    hash: str  # SHA-256 of the rows
    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A frozen dataset."""

    hash: str
    name: str
    manifest: dict[str, Any]
    created_by: str
    created_at: str


def judged(
    db: Connection, project_id: str, *, leave_out: Collection[str] = (), known: bool = False
) -> Judged:
    """Return the comparisons of a project and all that holds of what was said of them.

    A verdict that settles an item replaces those of the raters. Excluded raters are left out.

    Args:
        db: a connection.
        project_id: where.
        leave_out: raters to leave out as well.
        known: gold and calibration items too; never in a dataset.
    """
    found = Judged()
    for one in judged_items(db, project_id, leave_out=leave_out, known=known):
        found.comparisons.extend(one.comparisons)
        found.judgments.extend(one.judgments)
        found.rewrites.extend(one.rewrites)
    return found


def judged_items(
    db: Connection, project_id: str, *, leave_out: Collection[str] = (), known: bool = False
) -> Iterator[Judged]:
    """Yield the same item by item, in the order of import, so that memory stays flat."""
    gone = {m.user_id for m in members_of(db, project_id) if m.state == "excluded"} | set(leave_out)
    named = {g.version: f"v{g.version} {g.hash[:12]}" for g in guidelines_of(db, project_id)}
    ids = _items_in_order(db, project_id, known=known)
    for at in range(0, len(ids), MANY):
        said: dict[str, list[Any]] = defaultdict(list)
        for row in db.execute(_SAID, {"ids": ids[at : at + MANY]}):
            said[row.item_id].append(row)
        for item in db.execute(_ITEMS, {"ids": list(said)}):
            settled = item.state == "settled"
            hold = [r for r in said[item.id] if r.settles or not (settled or r.user_id in gone)]
            if hold:
                yield _judged_item(item, hold, named)


def freeze(
    database: Database,
    project_id: str,
    *,
    name: str,
    policy: Policy = "votes",
    by: str,
    advance: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Make a dataset of what holds now; the same verdicts give the same hash.

    Args:
        database: the store.
        project_id: where.
        name: what people call it.
        policy: `probability` of a pair from the smoothed share of votes, or from a model of the
            raters' skills and side biases.
        by: who froze it.
        advance: told now and then how many items are done, and of how many.

    Raises:
        DataError: nothing was judged yet, or the raters cannot be told apart.
    """
    made = make_dataset(database, project_id, policy=policy, advance=advance)
    return database.write(lambda db: keep(db, project_id, made, name=name, by=by))


def make_dataset(
    database: Readable,
    project_id: str,
    *,
    policy: Policy = "votes",
    advance: Callable[[int, int], None] | None = None,
) -> Made:
    """Write the rows of a dataset into the store's folder, under the name of their hash.

    Item by item, so memory stays flat; all of it from one moment of the store.

    Raises:
        DataError: as `freeze`.
    """
    folder = database.files / "datasets"
    unfinished = folder / f"unfinished-{secrets.token_hex(8)}"
    with database.read() as db, atomic_open(unfinished) as file:
        made = _write(db, project_id, policy, file, advance)
        if not made.manifest["rows"]:
            raise DataError("dataset: no pair came of what was judged so far. Label first.")
    unfinished.replace(dataset_file(database, made.hash))
    fsync_dir(folder)
    return made


def keep(db: Connection, project_id: str, made: Made, *, name: str, by: str) -> Snapshot:
    """Write down that a dataset was made, the first time; return what it is called since then."""
    query = select(snapshots).where(
        snapshots.c.project_id == project_id, snapshots.c.hash == made.hash
    )
    row = db.execute(query).one_or_none()
    if row is None:
        db.execute(
            insert(snapshots).values(
                project_id=project_id,
                hash=made.hash,
                name=name,
                manifest=msgspec.json.encode(made.manifest).decode(),
                created_by=by,
                created_at=events.now(),
            )
        )
        told = {"hash": made.hash, "name": name}
        events.append(db, project_id, type="frozen", user_id=by, data=told)
        row = db.execute(query).one()
    return _snapshot(row)


def snapshots_of(db: Connection, project_id: str) -> list[Snapshot]:
    """Return the datasets of a project, the newest first."""
    query = select(snapshots).where(snapshots.c.project_id == project_id)
    rows = db.execute(query.order_by(snapshots.c.created_at.desc())).all()
    return [_snapshot(row) for row in rows]


def dataset_file(database: Readable, seal: str) -> Path:
    """Return where the rows of a dataset lie; its name is its hash.

    Raises:
        StoreError: this is no hash.
    """
    if len(seal) != 64 or not set(seal) <= set("0123456789abcdef"):
        raise StoreError("dataset: not a SHA-256 hash.")
    return database.files / "datasets" / f"{seal}.jsonl"


def project_seq(db: Connection, project_id: str) -> int:
    """Return the number of the last event of a project."""
    return max((event.seq for event in events.last(db, project_id, 1)), default=0)


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(
        hash=row.hash,
        name=row.name,
        manifest=msgspec.json.decode(row.manifest),
        created_by=row.created_by,
        created_at=row.created_at,
    )


def _write(
    db: Connection,
    project_id: str,
    policy: Policy,
    file: IO[bytes],
    advance: Callable[[int, int], None] | None,
) -> Made:
    """Write the rows of all items and return their hash, and what became of the items."""
    dimensions = project(db, project_id).settings.dimensions
    models: dict[str, RaterModel | None] = dict.fromkeys(dimensions)
    if policy == "raters":
        from preftune.comparisons.rater_model import fit_raters  # scipy: seconds of a start

        models = {d: fit_raters(holding_votes(db, project_id, d)) for d in dimensions}
    seal, counts = hashlib.sha256(), Counter(dict.fromkeys(KINDS, 0))
    raters, guidelines = set[str](), set[str]()
    total = len(_items_in_order(db, project_id))
    for done, item in enumerate(judged_items(db, project_id), 1):
        for line in _rows(item, models, counts):
            file.write(line)
            seal.update(line)
            counts["rows"] += 1
        raters.update(j.rater.id for j in item.judgments)
        guidelines.update(j.guideline for j in item.judgments if j.guideline)
        if advance is not None and done % MANY == 0:
            advance(done, total)
    manifest = {
        "policy": policy,
        **counts,
        "raters": len(raters),
        "guidelines": sorted(guidelines),
        "events": project_seq(db, project_id),
    }
    return Made(hash=seal.hexdigest(), manifest=manifest)


def _rows(
    said: Judged, models: Mapping[str, "RaterModel | None"], counts: Counter[str]
) -> Iterator[bytes]:
    """Yield the rows of one item as JSON lines, and count what became of it."""
    counts["pairs"] += len(said.rewrites)
    yield from map(encode, said.rewrites)
    for dimension, model in models.items():
        ours = [j for j in said.judgments if j.dimension == dimension]
        if any(j.kind == "ranking" for j in ours):
            lists = rankings_from_judgments(said.comparisons, ours, dimension=dimension)
            counts["ranked"] += len(lists)
            yield from map(encode, lists)
        elif ours:
            found = pairs_from_judgments(said.comparisons, ours, dimension=dimension, model=model)
            for kind in ("pairs", "ties", "identical"):
                counts[kind] += len(getattr(found, kind))
            yield from map(encode, found.pairs)


def _items_in_order(db: Connection, project_id: str, *, known: bool = False) -> Sequence[str]:
    """Return the items that were not withdrawn, in the order of import."""
    query = select(items.c.id).where(items.c.project_id == project_id, items.c.state != "withdrawn")
    if not known:
        query = query.where(items.c.use == "label")
    return db.scalars(query.order_by(items.c.position)).all()


def _judged_item(item: Any, hold: list[Any], named: Mapping[int, str]) -> Judged:
    """Return one item and the verdicts on it that hold."""
    content = msgspec.json.decode(item.content, type=Content)
    name = item.comparison_id
    found = Judged(comparisons=list(_in_orders_shown(name, hold, content)))
    for row in hold:
        guideline = named.get(row.guideline, "")
        if row.kind == "rewrite":
            found.rewrites.append(_rewrite(row, name, content, guideline))
        else:
            found.judgments.append(_judgment(row, name, guideline))
    return found


def _in_orders_shown(name: str, rows: list[Any], content: Content) -> Iterator[Comparison]:
    """Yield what was compared; of two responses, in each order that somebody saw."""
    if len(content.responses) < 2:
        return
    imported = Comparison(id=name, prompt=content.prompt, responses=content.responses)
    swapped = {row.shown == "1,0" for row in rows}
    if False in swapped:
        yield imported
    if True in swapped:
        yield imported.swap()


def _judgment(row: Any, name: str, guideline: str) -> Judgment:
    """Return a verdict; of two responses in the order shown, of more as imported."""
    value, swapped = _verdict(row.value, row.shown)
    return Judgment(
        id=row.id,
        comparison_id=f"{name}{SWAPPED}" if swapped else name,
        kind=value["kind"],
        rater=_rater(row.user_id),
        choice=value.get("choice"),
        grade=value.get("grade"),
        ranking=tuple(tuple(group) for group in value.get("ranking", ())),
        dimension=row.dimension,
        why=row.why,
        guideline=guideline,
        seconds=row.seconds,
        at=row.at,
    )


@lru_cache(maxsize=4096)  # a million verdicts on two responses are a few dozen different ones
def _verdict(value: str, shown: str) -> tuple[Verdict, bool]:
    """Return the verdict of a row, and whether it is on the reverse of the order imported."""
    order = [int(at) for at in shown.split(",")]
    verdict: Verdict = msgspec.json.decode(value)
    return (as_imported(verdict, order) if len(order) > 2 else verdict), order == [1, 0]


@lru_cache(maxsize=4096)
def _rater(user_id: str) -> Rater:
    return Rater(id=user_id, kind="human")


def _rewrite(row: Any, name: str, content: Content, guideline: str) -> PreferencePair:
    original: Response = content.responses[0]
    text = msgspec.json.decode(row.value)["rewrite"]
    return PreferencePair(
        id=content_id("pair", row.id),
        prompt=content.prompt,
        chosen=(assistant(text),),
        rejected=original.messages,
        dimension=row.dimension,
        why=row.why,
        provenance=Provenance(
            source=content.prompt.source,
            comparison_id=name,
            raters=(row.user_id,),
            rater_kind="human",
            guideline=guideline,
            rejected_generator=original.generator,
        ),
    )
