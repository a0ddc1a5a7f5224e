"""The lead's items: import, list, one item with all that was said of it, known answers."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from preftune.serving.lead_cache import count_anew
from preftune.serving.lead_import import Imported, import_piece
from preftune.serving.lead_pages import At
from preftune.serving.lead_payload import LARGEST, Done, ItemId, Mark, Piece, Withdraw
from preftune.serving.lead_view import answer_of, choices, in_words, source_of, verdict_of
from preftune.serving.rater_view import excerpt
from preftune.store import events
from preftune.store.adjudication import PAGE, Wanted, known_items, list_items, mark, said_of
from preftune.store.items import item, withdraw
from preftune.store.overview import item_counts, names_of
from preftune.store.projects import project

router = APIRouter()
Word = Annotated[str, Query(max_length=200)]


@router.get("/items", include_in_schema=False)
def items_page(
    at: At,
    state: Word = "",
    use: Word = "",
    search: Word = "",
    after: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
) -> Response:
    """List the items."""
    wanted = Wanted(state=state, use=use, search=search, after=after)
    with at.database.read() as db:
        found = list_items(db, at.project_id, wanted)
        counts = item_counts(db, at.project_id)
    more = ""
    if len(found) == PAGE:
        kept = {"state": state, "use": use, "search": search}
        more = "?" + urlencode({**kept, "after": found[-1].position})
    return at.page(
        "lead_items.html.jinja",
        found=found,
        wanted=wanted,
        counts=counts,
        more=more,
        excerpt=excerpt,
    )


@router.get("/items/{item_id}", include_in_schema=False)
def item_page(at: At, item_id: ItemId, names: bool = False) -> Response:
    """Show an item, every verdict on it, and on request who wrote the responses."""
    with at.database.read() as db:
        it = item(db, at.project_id, item_id)
        said = said_of(db, at.project_id, item_id)
        happened = events.of_item(db, at.project_id, item_id)
        people = names_of(db, [event.user_id for event in happened])
        settings = project(db, at.project_id).settings
    count = len(it.content.responses)
    return at.page(
        "lead_item.html.jinja",
        it=it,
        said=said,
        happened=happened,
        people=people,
        show_names=names,
        source_of=source_of,
        in_words=in_words,
        dimensions=settings.dimensions,
        choices=choices(it.kind, count, tie=True),
        answers={d: answer_of(verdict, count) for d, verdict in it.gold.items()},
        why=next((str(v.get("why", "")) for v in it.gold.values()), ""),
    )


@router.post("/items/{item_id}/mark")
def mark_item(at: At, item_id: ItemId, body: Mark) -> Done:
    """Say what an item is for: to be labelled, gold, or calibration."""
    with at.database.read() as db:
        it = item(db, at.project_id, item_id)
    answers = body.answers if body.use != "label" else {}
    gold = {dimension: verdict_of(it.kind, answer) for dimension, answer in answers.items()}
    at.database.write(
        lambda db: mark(
            db, at.project_id, item_id, use=body.use, gold=gold, why=body.why, by=at.user_id
        )
    )
    count_anew(at.database, at.project_id)
    return Done(message=f"This item is for: {body.use}.")


@router.post("/withdraw")
def withdraw_items(at: At, body: Withdraw) -> Done:
    """Show items to nobody any more."""
    at.database.write(lambda db: withdraw(db, at.project_id, body.items, by=at.user_id))
    count_anew(at.database, at.project_id)
    return Done(message=f"{len(body.items)} withdrawn. What was said of it stays in the log.")


@router.get("/import", include_in_schema=False)
def import_page(at: At) -> Response:
    """Show the form that sends a file."""
    return at.page("lead_import.html.jinja")


@router.post("/import")
def import_lines(at: At, body: Piece) -> Imported:
    """Import some lines of a file; lines that are there already change nothing."""
    return at.database.write(lambda db: import_piece(db, at.project_id, body, by=at.user_id))


@router.get("/known", include_in_schema=False)
def known_page(at: At) -> Response:
    """List gold and calibration items with how raters did on them."""
    with at.database.read() as db:
        found = known_items(db, at.project_id)
        settings = project(db, at.project_id).settings
    return at.page(
        "lead_known.html.jinja",
        found=found,
        dimensions=settings.dimensions,
        in_words=in_words,
        excerpt=excerpt,
    )
