"""The guideline and its versions: write, preview, compare, publish."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.responses import Response

from preftune.errors import StoreError
from preftune.evaluation.marked import differences
from preftune.serving.lead_cache import count_anew, counted
from preftune.serving.lead_pages import At
from preftune.serving.lead_payload import Done, Publish, Text
from preftune.serving.safe_markdown import Tree, safe_markdown
from preftune.store.overview import names_of
from preftune.store.projects import (
    NO_GUIDELINE,
    Guideline,
    guideline,
    guidelines_of,
    publish_guideline,
)

router = APIRouter()
Version = Annotated[int | None, Query(ge=0, le=1_000_000_000)]


@router.get("/guideline", include_in_schema=False)
def guideline_page(at: At, version: Version = None, beside: Version = None) -> Response:
    """Show the editor, all versions, one of them as raters see it, and what changed in it."""
    with at.database.read() as db:
        versions = guidelines_of(db, at.project_id)
        shown = _version(versions, version)
        other = NO_GUIDELINE if not beside else _version(versions, beside)
        current = guideline(db, at.project_id)
        authors = names_of(db, [one.author_id for one in versions])
    found = counted(at.database, at.project_id)
    made = dict(zip(*np.unique(found.said.guideline, return_counts=True), strict=True))
    return at.page(
        "lead_guideline.html.jinja",
        current=current,
        versions=versions,
        authors=authors,
        counted_ago=found.age,
        made={int(number): int(count) for number, count in made.items()},
        shown=shown,
        tree=safe_markdown(shown.text),
        other=other,
        changed=differences(other.text, shown.text) if beside is not None else None,
    )


@router.post("/guideline/preview")
def preview(body: Text) -> Tree:
    """Return a text as raters would see it."""
    return safe_markdown(body.text)


@router.post("/guideline")
def publish(at: At, body: Publish) -> Done:
    """Let a text hold from now on."""
    version = at.database.write(
        lambda db: publish_guideline(db, at.project_id, body.text, base=body.base, by=at.user_id)
    )
    count_anew(at.database, at.project_id)
    return Done(message=f"Version {version} holds from now on. Earlier verdicts keep theirs.")


def _version(versions: list[Guideline], number: int | None) -> Guideline:
    if number is None:
        return versions[0] if versions else NO_GUIDELINE
    for found in versions:
        if found.version == number:
            return found
    raise StoreError(f"guideline: there is no version {number}.")
