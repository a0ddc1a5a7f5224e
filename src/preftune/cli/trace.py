"""`preftune trace`: from a row of a dataset back to the log."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftune.store.lineage import Lineage
    from preftune.store.trace import Trace
    from preftune.types import LogRow, Provenance

_LONGEST = 300  # characters of a log's row that are shown


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("trace")(trace_command)


def trace_command(
    row: Annotated[str, typer.Argument(help="Id of a pair, or of any row with a prompt.")],
    data: Annotated[
        Path | None, typer.Option(help="File of our own format that has it.", show_default=False)
    ] = None,
    store: Annotated[
        str, typer.Option(help="Or the store: SQLite file, or postgresql://user@host/name.")
    ] = "",
    files: Annotated[
        Path | None, typer.Option(help="Folder of datasets, where it is not the usual.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log that was imported: shows its rows.", show_default=False)
    ] = None,
    id_key: Annotated[
        Path | None,
        typer.Option(help="Key that ids were hashed with; else LOG.id-key.", show_default=False),
    ] = None,
) -> None:
    """Show the way back from a row: verdicts, raters, guideline, generators, rows of the log.

    Example: preftune trace pair-5f2a --data pairs.jsonl --log log.jsonl
    """
    from preftune.store.database import Database
    from preftune.store.trace import trace

    with ExitStack() as open_stores:
        database = open_stores.enter_context(Database(store, files=files)) if store else None
        found = trace(row, data=data, store=database, log=log, id_key=id_key)
    for label, said in (*_row(found), *_asked(found)):
        typer.echo(f"{label:<11}{said}")


def _row(found: "Trace") -> Iterator[tuple[str, str]]:
    """Yield what the row says, and the verdicts behind it."""
    from preftune.records import TAGS
    from preftune.text import visible
    from preftune.types import Prompt

    (kind,) = (tag for tag, record in TAGS.items() if record is type(found.row))
    yield "row", f"{kind} {visible(found.row.id)}, line {found.line}"
    if found.lineage:
        frozen = found.lineage.snapshot
        yield "dataset", f"{visible(frozen.name)} {frozen.hash[:12]}, frozen {frozen.created_at}"
    if came := getattr(found.row, "provenance", None):
        yield from _judged(came, getattr(found.row, "dimension", ""))
    if found.lineage:
        yield from _said(found.lineage)
    if not isinstance(found.row, Prompt):
        yield "prompt", visible(found.prompt.id)


def _judged(came: "Provenance", dimension: str) -> Iterator[tuple[str, str]]:
    from preftune.text import visible

    if came.comparison_id:
        yield "comparison", visible(came.comparison_id)
    by = ", ".join(map(visible, came.raters)) or "not said"
    yield "judged", f"{visible(dimension)} by {by} ({came.rater_kind})"
    yield "guideline", visible(came.guideline) or "none"
    if came.chosen_generator or came.rejected_generator:
        names = (came.chosen_generator or "not said", came.rejected_generator or "not said")
        yield "generators", "chosen {}, rejected {}".format(*map(visible, names))


def _said(came: "Lineage") -> Iterator[tuple[str, str]]:
    from preftune.serving.lead_view import in_words
    from preftune.text import visible

    for place, response in enumerate(came.item.content.responses):
        drawn = response.sampling
        how = f", temperature {drawn.temperature:g}, seed {drawn.seed}" if drawn else ""
        letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place]
        yield "response", f"{letter}: {visible(response.generator or 'not said')}{how}"
    for one in came.said:
        why = f": {visible(one.why)}" if one.why else ""
        yield "verdict", f"{in_words(one.verdict)}, {visible(one.name)}, event {one.seq}{why}"
    for entry in came.logged:
        what = f"{entry.event.seq} {entry.event.type}, {visible(entry.name)}, {entry.event.at}"
        yield "event", f"{what}, seal {entry.hash[:12]}"


def _asked(found: "Trace") -> Iterator[tuple[str, str]]:
    """Yield the rows of logs that asked the prompt."""
    from preftune.prompts.traffic import seen
    from preftune.text import visible

    rows = found.prompt.log_rows
    if not rows:
        yield "asked", f"origin {found.prompt.origin}, no row of a log is kept"
    for row in rows:
        yield "asked", _place(row)
    if len(rows) < (times := seen(found.prompt)) and rows:
        yield "asked", f"{times:,} times in all, near repeats among them"
    for one in found.in_log or ():
        if one.line is None:
            yield "in the log", f"not found: line {one.row.line} of another file"
            continue
        how = "found by its id" if one.moved else "the same file"
        text = one.text if len(one.text) <= _LONGEST else f"{one.text[:_LONGEST]}…"
        yield "in the log", f"line {one.line}, {how}: {visible(text)}"


def _place(row: "LogRow") -> str:
    from preftune.text import visible

    id = f", id {visible(row.id)}" if row.id else ""
    at = f", at {visible(row.at)}" if row.at else ""
    return f"{visible(row.file)} line {row.line}{id}{at}, sha256 {row.sha256[:12]}"
