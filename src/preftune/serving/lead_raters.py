"""The lead's table of raters: how they work, and what would change without one of them."""

import csv
import io

from fastapi import APIRouter
from starlette.responses import Response

from preftune.datasets.formats.csv_table import escape
from preftune.errors import StoreError
from preftune.serving.lead_cache import count_anew, counted
from preftune.serving.lead_pages import At, Desk
from preftune.serving.lead_payload import Done, State, UserId
from preftune.store.agreement import agreement, leave_out
from preftune.store.overview import Colleague, colleagues, names_of
from preftune.store.projects import change_state, members_of
from preftune.store.rater_table import RaterRow, Share, without

router = APIRouter()
SHARES = {
    "known": "known answers right",
    "repeats": "agrees with own earlier verdict",
    "first": "chose the side shown first",
    "others": "agrees with most others",
}
DONE = {
    "active": "works again.",
    "paused": "is paused: no items until you let them back. Their verdicts count.",
    "excluded": "is excluded: no items, and datasets leave their verdicts out.",
}


@router.get("/raters", include_in_schema=False)
def raters_page(at: At) -> Response:
    """Show the table of raters."""
    found = counted(at.database, at.project_id)
    with at.database.read() as db:
        people = colleagues(db, at.project_id)
    rows = {row.user_id: row for row in found.raters}
    return at.page("lead_raters.html.jinja", people=_everybody(at, people), rows=rows, found=found)


@router.get("/raters.csv")
def raters_csv(at: At) -> Response:
    """Return the table of raters as CSV; no cell of text begins like a formula."""
    found = counted(at.database, at.project_id)
    with at.database.read() as db:
        people = {one.user_id: one for one in colleagues(db, at.project_id)}
        names = names_of(db, [row.user_id for row in found.raters])
    rows = [(names[row.user_id], people.get(row.user_id), row) for row in found.raters]
    return Response(
        table_csv(rows),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="raters.csv"'},
    )


@router.get("/raters/{user_id}", include_in_schema=False)
def rater_page(at: At, user_id: UserId) -> Response:
    """Show one rater, and what would change without their verdicts."""
    found = counted(at.database, at.project_id)
    with at.database.read() as db:
        people = {one.user_id: one for one in _everybody(at, colleagues(db, at.project_id))}
        excluded = {m.user_id for m in members_of(db, at.project_id) if m.state == "excluded"}
    if user_id not in people:
        raise StoreError(f"rater {user_id}: is not in this project.")
    others = leave_out(found.said, excluded - {user_id})
    rest = leave_out(others, {user_id})
    pairs = [(agreement(others, one.dimension, level=one.level), one) for one in found.agreement]
    return at.page(
        "lead_rater.html.jinja",
        rater=people[user_id],
        row=next((row for row in found.raters if row.user_id == user_id), None),
        change=without(others, user_id),
        alphas=[(before, agreement(rest, one.dimension, level=one.level)) for before, one in pairs],
        shares=SHARES,
        counted_ago=found.age,
    )


@router.post("/raters/{user_id}/state")
def set_state(at: At, user_id: UserId, body: State) -> Done:
    """Pause or exclude a rater, or let them back."""
    at.database.write(
        lambda db: change_state(db, at.project_id, user_id, body.state, by=at.user_id)
    )
    count_anew(at.database, at.project_id)
    with at.database.read() as db:
        name = names_of(db, [user_id])[user_id]
    return Done(message=f"{name} {DONE[body.state]}")


def table_csv(rows: list[tuple[str, Colleague | None, RaterRow]]) -> str:
    """Return the table of raters as CSV: RFC 4180, and cells that no spreadsheet runs.

    A text that begins like a formula gets an apostrophe; `csv_table.unescape` takes it away.
    """
    parts = ("hits", "of", "share", "low", "high")
    header = ["name", "e-mail", "state", "items", "verdicts", "items per hour", "median seconds"]
    header += [f"{words}: {part}" for words in SHARES.values() for part in parts] + ["flags"]
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(header)
    for name, person, row in rows:
        told = (name, person.email if person else "", person.state if person else "")
        numbers = (row.items, row.verdicts, _cell(row.per_hour), _cell(row.median_s))
        shares = [cell for key in SHARES for cell in _share_cells(getattr(row, key))]
        table.writerow([*map(escape, told), *numbers, *shares, escape("; ".join(row.flags))])
    return text.getvalue()


def _everybody(at: Desk, people: list[Colleague]) -> list[Colleague]:
    """Return the members, and after them those who judged without being one, such as admins."""
    known = {one.user_id for one in people}
    rest = [
        row.user_id
        for row in counted(at.database, at.project_id).raters
        if row.user_id not in known
    ]
    with at.database.read() as db:
        names = names_of(db, rest)
    return people + [
        Colleague(user_id=one, name=names[one], email="", role="lead", state="active")
        for one in rest
    ]


def _share_cells(share: Share) -> list[str]:
    if share.interval is None:
        return ["0", "0", "", "", ""]
    return [
        str(share.hits),
        str(share.of),
        *(_cell(value) for value in (share.share, share.interval.low, share.interval.high)),
    ]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
