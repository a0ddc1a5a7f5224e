"""What raters are shown: comparisons, and single responses to be rewritten."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from preftune.errors import DataError, StoreError
from preftune.store import events
from preftune.store.prepared import Prepared
from preftune.store.projects import Kind, count_items, project, recount_items
from preftune.store.schema import items
from preftune.types import Comparison, Prompt, Response, content_id

Use = Literal["label", "gold", "calibration"]
Verdict = dict[str, Any]  # the fields of types.Judgment that hold the verdict, `kind` among them
FIELDS = {"binary": "choice", "scale": "grade", "ranking": "ranking", "rewrite": "rewrite"}


_ITEM = Prepared(
    select(items).where(items.c.project_id == bindparam("project"), items.c.id == bindparam("item"))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A prompt and one or more responses, in the order they were imported in."""

    prompt: Prompt
    responses: tuple[Response, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewItem:
    """An item to be imported."""

    id: str  # the comparison's, unique in its project
    content: Content
    use: Use = "label"
    gold: dict[str, Verdict] = field(default_factory=dict)  # dimension → verdict, as imported
    wanted: int | None = None  # raters; None: as the project has it


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An item as it stands."""

    id: str
    project_id: str
    position: int
    comparison_id: str
    content: Content
    kind: Kind
    use: Use
    gold: dict[str, Verdict]
    wanted: int
    votes: int
    held: int
    state: str
    disagreement: float


def of_comparison(
    comparison: Comparison, *, use: Use = "label", gold: dict[str, Verdict] | None = None
) -> NewItem:
    """Return a comparison as an item to be imported."""
    content = Content(prompt=comparison.prompt, responses=comparison.responses)
    return NewItem(id=comparison.id, content=content, use=use, gold=gold or {})


def of_response(prompt: Prompt, response: Response) -> NewItem:
    """Return a bad response to be rewritten as an item to be imported."""
    number = content_id("w", prompt.id, response.messages)
    return NewItem(id=number, content=Content(prompt=prompt, responses=(response,)))


def add_items(db: Connection, project_id: str, new: Sequence[NewItem], *, by: str) -> int:
    """Import items and return how many were new; one that is there already stays as it is.

    Raises:
        DataError: an item that does not fit the project: too few responses, or gold without answer.
    """
    settings = project(db, project_id).settings
    ids = [item.id for item in new]
    query = select(items.c.comparison_id).where(items.c.project_id == project_id)
    known = set(db.scalars(query.where(items.c.comparison_id.in_(ids))))
    place = db.scalar(
        select(func.coalesce(func.max(items.c.position), 0)).where(items.c.project_id == project_id)
    )
    rows: list[dict[str, Any]] = []
    for item in new:
        if item.id in known:
            continue
        known.add(item.id)
        _check(item, settings.kind, settings.dimensions)
        rows.append(
            {
                "id": content_id("itm", project_id, item.id),
                "project_id": project_id,
                "position": (place or 0) + len(rows) + 1,
                "comparison_id": item.id,
                "content": msgspec.json.encode(item.content).decode(),
                "kind": settings.kind,
                "gold": msgspec.json.encode(item.gold).decode() if item.gold else None,
                "use": item.use,
                "wanted": item.wanted or settings.raters_per_item,
            }
        )
    if rows:
        db.execute(insert(items), rows)
        count_items(db, project_id, opened=sum(row["use"] == "label" for row in rows), ended=0)
        told = {"items": len(rows), "first": rows[0]["id"], "last": rows[-1]["id"]}
        events.append(db, project_id, type="imported", user_id=by, data=told)
    return len(rows)


def item(db: Connection, project_id: str, item_id: str) -> Item:
    """Return an item of a project.

    Raises:
        StoreError: the project has no such item.
    """
    row = _ITEM.first(db, project=project_id, item=item_id)
    if row is None:
        raise StoreError(f"item {item_id}: is not there.")
    return as_item(row)


def as_item(row: Row[Any]) -> Item:
    """Return a row of the table as an item."""
    fields = row._asdict()
    fields["content"] = msgspec.json.decode(fields["content"], type=Content)
    fields["gold"] = msgspec.json.decode(fields["gold"]) if fields["gold"] else {}
    return Item(**fields)


def withdraw(db: Connection, project_id: str, item_ids: Iterable[str], *, by: str) -> None:
    """Show these items to nobody any more; what was said of them stays."""
    named = sorted(item_ids)
    stands = update(items).where(items.c.project_id == project_id, items.c.id.in_(named))
    db.execute(stands.values(state="withdrawn"))
    recount_items(db, project_id)
    events.append(db, project_id, type="withdrawn", user_id=by, data={"items": named})


def order_shown(
    secret: str, *, user_id: str, item_id: str, round: int, responses: int
) -> tuple[int, ...]:
    """Return the places of the responses in the order that a rater sees them.

    A keyed hash of (rater, item, round): nobody can foresee it, and a reload shows the same.
    """

    def place(number: int) -> bytes:
        text = f"{user_id}\n{item_id}\n{round}\n{number}".encode()
        return hmac.new(secret.encode(), text, hashlib.sha256).digest()

    return tuple(sorted(range(responses), key=place))


def as_imported(verdict: Verdict, shown: Sequence[int]) -> Verdict:
    """Return a verdict on responses as shown as one on responses as imported.

    A grade of 2 shown in the order (1, 0) is a 6: the first shown, better, was the second.
    """
    kind = verdict["kind"]
    if kind == "binary":
        return {"kind": kind, "choice": shown[verdict["choice"]]}
    if kind == "scale":
        grade = verdict["grade"]
        return {"kind": kind, "grade": grade if shown[0] < shown[1] else 8 - grade}
    if kind == "ranking":
        groups = [sorted(shown[at] for at in group) for group in verdict["ranking"]]
        return {"kind": kind, "ranking": groups}
    return verdict


def check_verdict(verdict: Verdict, *, kind: Kind, responses: int, tie: bool = True) -> None:
    """Refuse a verdict that does not answer what was asked.

    Raises:
        DataError: says what is missing or out of range.
    """
    said = verdict.get("kind")
    if said == "tie":
        if not tie or kind == "rewrite":
            raise DataError("verdict: a tie is not on offer here. Choose a response.")
        return
    if said != kind:
        raise DataError(f"verdict: kind {said!r}, asked was {kind!r}.")
    value = verdict.get(FIELDS[kind])
    if kind == "binary" and not _is_whole(value, 0, responses - 1):
        raise DataError(f"verdict: choice {value!r}. Choose 0 to {responses - 1}.")
    if kind == "scale" and not _is_whole(value, 1, 7):
        raise DataError(f"verdict: grade {value!r}. Grades run from 1 to 7.")
    if kind == "scale" and value == 4 and not tie:
        raise DataError("verdict: grade 4 is a tie, which is not on offer here.")
    if kind == "ranking":
        _check_ranking(value, responses, tie=tie)
    if kind == "rewrite" and not (isinstance(value, str) and value.strip()):
        raise DataError("verdict: the rewritten response is empty. Write one, or skip.")


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_ranking(value: Any, responses: int, *, tie: bool) -> None:
    groups = value if isinstance(value, list) else []
    places = [at for group in groups if isinstance(group, list) for at in group]
    if sorted(map(str, places)) != sorted(map(str, range(responses))) or [] in groups:
        raise DataError(f"verdict: ranking {value!r}. Name each of 0 to {responses - 1} once.")
    if not tie and len(groups) < responses:
        raise DataError("verdict: two responses share a place, which is not on offer here.")


def _check(new: NewItem, kind: Kind, dimensions: Sequence[str]) -> None:
    count = len(new.content.responses)
    least, most = {"rewrite": (1, 1), "ranking": (2, 20)}.get(kind, (2, 2))
    if not least <= count <= most:
        raise DataError(f"item {new.id}: {count} responses; {kind} shows {least} to {most}.")
    if new.use != "label" and set(new.gold) != set(dimensions):
        raise DataError(
            f"item {new.id}: {new.use} needs the right answer for {', '.join(dimensions)}."
        )
    for verdict in new.gold.values():
        check_verdict(verdict, kind=kind, responses=count)
