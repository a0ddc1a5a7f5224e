"""Datasets: freeze what holds, download it, and trace a row back to all that it came from."""

import re
from dataclasses import dataclass
from typing import Annotated, get_args

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, RedirectResponse, Response

from preftune.errors import DataError, StoreError
from preftune.serving.lead_cache import counted
from preftune.serving.lead_pages import At, Desk
from preftune.serving.lead_payload import LARGEST, Done, Freeze, Number, Seal
from preftune.serving.lead_view import in_words, source_of
from preftune.store.freezing import Freezing, freezer
from preftune.store.lineage import line_of, lineage, rows_of, snapshot
from preftune.store.overview import item_counts, names_of
from preftune.store.projects import members_of
from preftune.store.snapshots import Policy, dataset_file, snapshots_of
from preftune.types import text_of

router = APIRouter()
ROWS = 25
POLICIES = {
    "votes": ("Majority", "the smoothed share of votes is a pair's probability."),
    "raters": ("rater model", "votes weigh by the skill and side bias of their rater."),
    "model": ("Rater model", "votes weigh by each rater's skill and side bias."),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """How far the latest dataset is, and where it lies once it is made."""

    words: str
    done: int = 0  # items
    total: int = 0
    runs: bool = False
    to: str = ""


@router.get("/datasets", include_in_schema=False)
def datasets_page(at: At) -> Response:
    """Show what would be frozen, the form, and all datasets so far."""
    with at.database.read() as db:
        found = snapshots_of(db, at.project_id)
        authors = names_of(db, [one.created_by for one in found])
        counts = item_counts(db, at.project_id)
        excluded = sum(m.state == "excluded" for m in members_of(db, at.project_id))
    said = counted(at.database, at.project_id)
    return at.page(
        "lead_datasets.html.jinja",
        found=found,
        making=_making(at),
        counted_ago=said.age,
        authors=authors,
        counts=counts,
        excluded=excluded,
        judged=len(set(said.said.item[said.said.counts].tolist())) + counts.settled,
        policies=[(name, *POLICIES.get(name, (name, ""))) for name in get_args(Policy)],
    )


@router.post("/datasets")
def freeze_dataset(at: At, body: Freeze) -> Done:
    """Begin a dataset of what holds now; the same verdicts give the same dataset.

    A small one is made when this is answered; how far another is, the page of datasets shows.
    """
    for policy in get_args(Policy):
        if policy == body.policy:
            begun = freezer(at.database).start(
                at.database, at.project_id, name=body.name, policy=policy, by=at.user_id
            )
            made = _words_of(at, begun)
            return Done(message=made.words, next=made.to or f"/p/{at.project_id}/lead/datasets")
    raise DataError(f"policy: {body.policy!r} is not one of {', '.join(get_args(Policy))}.")


@router.get("/datasets/now")
def now(at: At) -> Making:
    """Return how far the dataset is that is being made, or what became of it."""
    return _making(at) or Making(words="The server was started anew. Freeze the dataset again.")


@router.get("/datasets/{seal}", include_in_schema=False)
def dataset_page(
    at: At,
    seal: Seal,
    after: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    row: Annotated[str, Query(max_length=300)] = "",
    names: bool = False,
) -> Response:
    """Show a dataset: its counts and its rows; `row` goes to the one with this id."""
    with at.database.read() as db:
        found = snapshot(db, at.project_id, seal)
        author = names_of(db, [found.created_by])[found.created_by]
    if row.strip():
        line = line_of(at.database, seal, row.strip())
        if line is None:
            raise StoreError(f"row {row}: is not in this dataset.")
        return RedirectResponse(f"/p/{at.project_id}/lead/datasets/{seal}/rows/{line}", 303)
    rows = rows_of(at.database, seal, after=after, count=ROWS)
    return at.page(
        "lead_dataset.html.jinja",
        found=found,
        author=author,
        rows=rows,
        after=after,
        more=after + ROWS < found.manifest["rows"],
        size=ROWS,
        text_of=text_of,
        show_names=names,
    )


@router.get("/datasets/{seal}/file")
def download(at: At, seal: Seal) -> Response:
    """Return the rows of a dataset as JSON lines."""
    with at.database.read() as db:
        found = snapshot(db, at.project_id, seal)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", found.name).strip("-") or "dataset"
    path = dataset_file(at.database, seal)
    if not path.is_file():
        raise StoreError(
            f"dataset {seal[:12]}: its rows are not on this disk. Restore the backup that has them."
        )
    return FileResponse(
        path, media_type="application/x-ndjson", filename=f"{plain}-{seal[:12]}.jsonl"
    )


@router.get("/datasets/{seal}/rows/{line}", include_in_schema=False)
def row_page(at: At, seal: Seal, line: Number, names: bool = False) -> Response:
    """Show where a row of a dataset comes from."""
    found = lineage(at.database, at.project_id, seal, line)
    return at.page(
        "lead_lineage.html.jinja",
        found=found,
        row=found.at.row,
        show_names=names,
        in_words=in_words,
        source_of=source_of,
        text_of=text_of,
    )


def _making(at: Desk) -> Making | None:
    """Return how far the latest dataset is, None since the start of the server."""
    last = freezer(at.database).last(at.project_id)
    return None if last is None else _words_of(at, last)


def _words_of(at: Desk, last: Freezing) -> Making:
    if (made := last.snapshot) is not None:
        to = f"/p/{at.project_id}/lead/datasets/{made.hash}"
        rows = made.manifest["rows"]
        words = f"{made.name} is made: {rows:,} row{'' if rows == 1 else 's'}."
        return Making(words=words, done=last.done, total=last.total, to=to)
    if last.error:
        why = last.error[:1].upper() + last.error[1:]
        return Making(words=f"{last.name} was not made. {why}")
    words = f"{last.name} is being made: {last.done:,} of {last.total:,} items."
    return Making(words=words, done=last.done, total=last.total, runs=True)
