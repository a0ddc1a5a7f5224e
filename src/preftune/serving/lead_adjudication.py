"""Items on which raters disagree, and flags: the lead looks at them blind and has the last word."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from preftune.serving.lead_cache import count_anew
from preftune.serving.lead_pages import At
from preftune.serving.lead_payload import Done, ItemId, Number, Settle
from preftune.serving.lead_view import as_shown, choices, in_order, in_words, verdict_of
from preftune.serving.rater_view import excerpt
from preftune.serving.web import IdempotencyKey, Nothing
from preftune.store.adjudication import close_flag, disagreed, open_flags, said_of
from preftune.store.items import item, order_shown
from preftune.store.labels import Vote, settle
from preftune.store.overview import item_counts
from preftune.store.projects import project

router = APIRouter()


@router.get("/adjudication", include_in_schema=False)
def adjudication_page(at: At) -> Response:
    """List what raters disagree about, and what they flagged."""
    with at.database.read() as db:
        found = disagreed(db, at.project_id)
        counts = item_counts(db, at.project_id)
        flags = open_flags(db, at.project_id)
    return at.page(
        "lead_adjudication.html.jinja", found=found, counts=counts, flags=flags, excerpt=excerpt
    )


@router.get("/adjudication/next", include_in_schema=False)
def next_page(at: At) -> Response:
    """Go to the item that raters disagree about most."""
    with at.database.read() as db:
        found = disagreed(db, at.project_id, count=1)
    base = f"/p/{at.project_id}/lead/adjudication"
    return RedirectResponse(f"{base}/{found[0].id}" if found else base, 303)


@router.get("/adjudication/{item_id}", include_in_schema=False)
def adjudicate_page(at: At, item_id: ItemId) -> Response:
    """Show an item as a rater would see it; what raters said stays folded and without names."""
    with at.database.read() as db:
        it = item(db, at.project_id, item_id)
        settings = project(db, at.project_id).settings
        said = said_of(db, at.project_id, item_id)
    shown = _order(at, item_id)
    blind = [
        {
            "number": number,
            "dimension": one.dimension,
            "words": in_words(as_shown(one.verdict, shown)),
            "rewrite": one.verdict.get("rewrite", ""),
            "why": one.why,
        }
        for number, one in _numbered([one for one in said if one.live and not one.settles])
    ]
    return at.page(
        "lead_adjudicate.html.jinja",
        it=it,
        content=in_order(it, shown),
        dimensions=settings.dimensions,
        choices=choices(it.kind, len(shown), tie=settings.tie),
        reasons=settings.reasons,
        blind=blind,
    )


@router.post("/adjudication/{item_id}")
def settle_item(at: At, item_id: ItemId, body: Settle, key: IdempotencyKey) -> Done:
    """Record the lead's last word; it replaces those of the raters in every dataset."""
    with at.database.read() as db:
        it = item(db, at.project_id, item_id)
    verdicts = {d: verdict_of(it.kind, answer) for d, answer in body.answers.items()}
    why = dict.fromkeys(verdicts, body.why) if body.why else {}
    said = Vote(key=key, item_id=item_id, round=0, verdicts=verdicts, why=why)
    shown = _order(at, item_id)
    at.database.write(lambda db: settle(db, at.project_id, at.user_id, said, shown=shown))
    count_anew(at.database, at.project_id)
    return Done(message="Settled.", next=f"/p/{at.project_id}/lead/adjudication/next")


@router.post("/flags/{seq}/close")
def close(at: At, seq: Number, _: Nothing) -> Done:
    """Say that a flag was dealt with."""
    at.database.write(lambda db: close_flag(db, at.project_id, seq, by=at.user_id))
    return Done(message="Done with this flag.")


def _order(at: At, item_id: str) -> tuple[int, ...]:
    """Return the order in which this lead sees the responses, always the same."""
    with at.database.read() as db:
        it, where = item(db, at.project_id, item_id), project(db, at.project_id)
    return order_shown(
        where.secret,
        user_id=at.user_id,
        item_id=item_id,
        round=0,
        responses=len(it.content.responses),
    )


def _numbered(said: list[Any]) -> list[tuple[int, Any]]:
    """Return verdicts with numbers instead of names, raters in the order they judged."""
    places: dict[str, int] = {}
    return [(places.setdefault(one.user_id, len(places) + 1), one) for one in said]
