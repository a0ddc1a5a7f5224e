"""From what raters said to a dataset that never changes again, named by the hash of its rows."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, insert, select

from preftune.comparisons.aggregate import Aggregated, pairs_from_judgments, rankings_from_judgments
from preftune.comparisons.rater_model import fit_raters
from preftune.comparisons.vote_table import vote_table
from preftune.errors import DataError, StoreError
from preftune.files import write_atomic
from preftune.records import encode
from preftune.store import events
from preftune.store.database import Database
from preftune.store.items import Content, as_imported
from preftune.store.projects import guidelines_of, members_of, project
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

Policy = Literal["votes", "raters"]
MANY = 2000  # rows fetched at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What was said in a project, in the records that the rest of preftune works on."""

    comparisons: list[Comparison] = field(default_factory=list)
    judgments: list[Judgment] = field(default_factory=list)
    rewrites: list[PreferencePair] = field(default_factory=list)


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
    gone = {m.user_id for m in members_of(db, project_id) if m.state == "excluded"} | set(leave_out)
    named = {g.version: f"v{g.version} {g.hash[:12]}" for g in guidelines_of(db, project_id)}
    found = Judged()
    query = (
        select(
            judgments,
            items.c.comparison_id,
            items.c.content,
            items.c.state,
        )
        .join(items, items.c.id == judgments.c.item_id)
        .where(judgments.c.project_id == project_id, judgments.c.live)
        .where(items.c.state != "withdrawn")
        .order_by(items.c.position, judgments.c.seq, judgments.c.dimension)
    )
    if not known:
        query = query.where(items.c.use == "label")
    rows = db.execute(query.execution_options(yield_per=MANY))
    for _, group in groupby(rows, key=attrgetter("item_id")):
        hold = [row for row in group if row.settles or not _void(row, gone)]
        if not hold:
            continue
        content = msgspec.json.decode(hold[0].content, type=Content)
        found.comparisons.extend(_in_orders_shown(hold, content))
        for row in hold:
            guideline = named.get(row.guideline, "")
            if row.kind == "rewrite":
                found.rewrites.append(_rewrite(row, content, guideline))
            else:
                found.judgments.append(_judgment(row, guideline))
    return found


def freeze(
    database: Database, project_id: str, *, name: str, policy: Policy = "votes", by: str
) -> Snapshot:
    """Make a dataset of what holds now; the same verdicts give the same hash.

    Args:
        database: the store.
        project_id: where.
        name: what people call it.
        policy: `probability` of a pair from the smoothed share of votes, or from a model of the
            raters' skills and side biases.
        by: who froze it.

    Raises:
        DataError: nothing was judged yet, or the raters cannot be told apart.
    """
    with database.read() as db:
        settings = project(db, project_id).settings
        said = judged(db, project_id)
        seq = project_seq(db, project_id)
    rows, counts = dataset_rows(said, dimensions=settings.dimensions, policy=policy)
    if not rows:
        raise DataError("dataset: no pair came of what was judged so far. Label first.")
    content = b"".join(rows)
    seal = hashlib.sha256(content).hexdigest()
    write_atomic(dataset_file(database, seal), content)
    manifest = {
        "policy": policy,
        "rows": len(rows),
        **counts,
        "raters": len({j.rater.id for j in said.judgments}),
        "guidelines": sorted({j.guideline for j in said.judgments if j.guideline}),
        "events": seq,
    }
    return database.write(
        lambda db: _keep(db, project_id, seal, name=name, manifest=manifest, by=by)
    )


def dataset_rows(
    said: Judged, *, dimensions: Iterable[str], policy: Policy
) -> tuple[list[bytes], dict[str, int]]:
    """Return the rows of a dataset as JSON lines, and what became of every item."""
    records: list[Any] = list(said.rewrites)
    counts = {"pairs": len(said.rewrites), "ties": 0, "identical": 0, "ranked": 0}
    for dimension in dimensions:
        ours = [j for j in said.judgments if j.dimension == dimension]
        ranked = {j.comparison_id for j in ours if j.kind == "ranking"}
        lists = rankings_from_judgments(
            [c for c in said.comparisons if c.id in ranked], ours, dimension=dimension
        )
        rest = [j for j in ours if j.comparison_id not in ranked]
        found = _pairs([c for c in said.comparisons if c.id not in ranked], rest, dimension, policy)
        records += [*found.pairs, *lists]
        counts["pairs"] += len(found.pairs)
        counts["ties"] += len(found.ties)
        counts["identical"] += len(found.identical)
        counts["ranked"] += len(lists)
    return [encode(record) for record in records], counts


def snapshots_of(db: Connection, project_id: str) -> list[Snapshot]:
    """Return the datasets of a project, the newest first."""
    query = select(snapshots).where(snapshots.c.project_id == project_id)
    rows = db.execute(query.order_by(snapshots.c.created_at.desc())).all()
    return [_snapshot(row) for row in rows]


def dataset_file(database: Database, seal: str) -> Path:
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


def _keep(
    db: Connection, project_id: str, seal: str, *, name: str, manifest: dict[str, Any], by: str
) -> Snapshot:
    query = select(snapshots).where(snapshots.c.project_id == project_id, snapshots.c.hash == seal)
    row = db.execute(query).one_or_none()
    if row is None:
        db.execute(
            insert(snapshots).values(
                project_id=project_id,
                hash=seal,
                name=name,
                manifest=msgspec.json.encode(manifest).decode(),
                created_by=by,
                created_at=events.now(),
            )
        )
        told = {"hash": seal, "name": name}
        events.append(db, project_id, type="frozen", user_id=by, data=told)
        row = db.execute(query).one()
    return _snapshot(row)


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(
        hash=row.hash,
        name=row.name,
        manifest=msgspec.json.decode(row.manifest),
        created_by=row.created_by,
        created_at=row.created_at,
    )


def _pairs(
    comparisons: Sequence[Comparison],
    said: Sequence[Judgment],
    dimension: str,
    policy: Policy,
) -> Aggregated:
    model = None
    if policy == "raters":
        model = fit_raters(vote_table(said, comparisons, dimension=dimension))
    return pairs_from_judgments(comparisons, said, dimension=dimension, model=model)


def _in_orders_shown(rows: Sequence[Any], content: Content) -> Iterator[Comparison]:
    """Yield what was compared; of two responses, in each order that somebody saw."""
    if len(content.responses) < 2:
        return
    imported = Comparison(
        id=rows[0].comparison_id, prompt=content.prompt, responses=content.responses
    )
    swapped = {row.shown == "1,0" for row in rows}
    if False in swapped:
        yield imported
    if True in swapped:
        yield imported.swap()


def _void(row: Any, gone: Collection[str]) -> bool:
    """Return whether a rater's verdict does not count: settled otherwise, or the rater is out."""
    return row.state == "settled" or row.user_id in gone


def _judgment(row: Any, guideline: str) -> Judgment:
    """Return a verdict; of two responses in the order shown, of more as imported."""
    shown = [int(at) for at in row.shown.split(",")]
    value = msgspec.json.decode(row.value)
    swapped = shown == [1, 0]
    if len(shown) > 2:
        value = as_imported(value, shown)
    return Judgment(
        id=row.id,
        comparison_id=f"{row.comparison_id}~swapped" if swapped else row.comparison_id,
        kind=value["kind"],
        rater=Rater(id=row.user_id, kind="human"),
        choice=value.get("choice"),
        grade=value.get("grade"),
        ranking=tuple(tuple(group) for group in value.get("ranking", ())),
        dimension=row.dimension,
        why=row.why,
        guideline=guideline,
        seconds=row.seconds,
        at=row.at,
    )


def _rewrite(row: Any, content: Content, guideline: str) -> PreferencePair:
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
            comparison_id=row.comparison_id,
            raters=(row.user_id,),
            rater_kind="human",
            guideline=guideline,
            rejected_generator=original.generator,
        ),
    )
