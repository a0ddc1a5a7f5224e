"""`preftune prompts …`: from a production log to the prompts worth labelling."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from preftune.prompts.import_log import ImportReport
    from preftune.prompts.select import SelectReport

group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="From a production log to prompts to label: import, redact, dedupe, select.",
)
_FIRST_LINES = 5  # line numbers shown of each kind of problem

SOURCE = typer.Argument(help="Prompts, as `import` writes them.")
OUT = typer.Option(help="File of prompts to write; .gz packs it.")
COLUMN = typer.Option(
    help="CSV: which column holds what, as prompt=QUESTION; may be given again. Of prompt, "
    "response, system, model, tags, feedback, id, time; else the column of that name.",
    show_default=False,
)
TAG = typer.Option(help="Field to keep as a tag; may be given again.", show_default=False)
LOG_IDS = typer.Option(help="The log's own ids: keep, hash, or auto: hash the personal ones.")
ID_KEY = typer.Option(help="Key to hash ids with; else LOG.id-key.", show_default=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="prompts")


@group.command("import")
def import_command(
    log: Annotated[Path, typer.Argument(help="JSON Lines or CSV; each may be .gz.")],
    out: Annotated[Path, OUT],
    format: Annotated[
        str, typer.Option(help="auto, chat (conversations), openai (requests) or csv.")
    ] = "auto",
    responses: Annotated[
        Path | None, typer.Option(help="File for the logged replies.", show_default=False)
    ] = None,
    column: Annotated[list[str] | None, COLUMN] = None,
    tag: Annotated[list[str] | None, TAG] = None,
    log_ids: Annotated[str, LOG_IDS] = "auto",
    id_key: Annotated[Path | None, ID_KEY] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Put bad rows in OUT.refused.jsonl and go on.")
    ] = False,
) -> None:
    """Read a production log: each different prompt once, tagged with how often it was asked.

    Example: preftune prompts import log.jsonl --out prompts.jsonl --responses responses.jsonl
    """
    from preftune.prompts.import_log import columns_named, import_log
    from preftune.prompts.log_ids import key_beside

    done = import_log(
        log,
        out,
        responses=responses,
        format=format,
        columns=columns_named(column or ()),
        tags=tag or (),
        on_bad="skip" if skip_bad else "stop",
        log_ids=log_ids,
        id_key=id_key,
    )
    _show_imported(done, out=out, responses=responses, key=id_key or key_beside(log))


@group.command("redact")
def redact_command(
    source: Annotated[Path, SOURCE],
    out: Annotated[Path, OUT],
    responses: Annotated[
        Path | None, typer.Option(help="Responses to these prompts.", show_default=False)
    ] = None,
    responses_out: Annotated[
        Path | None, typer.Option(help="File of responses to write.", show_default=False)
    ] = None,
    recogniser: Annotated[
        str,
        typer.Option(
            help="module:object that finds names, in the place of ours; its code is run.",
            show_default=False,
        ),
    ] = "",
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="Country whose phone numbers are found without +, again for more; else US, GB.",
            show_default=False,
        ),
    ] = None,
    forget_origin: Annotated[
        bool, typer.Option("--forget-origin", help="Leave out which log rows asked a prompt.")
    ] = False,
) -> None:
    """Replace personal data by placeholders such as [EMAIL_1]; only the log itself leads back.

    Example: preftune prompts redact prompts.jsonl --out clean.jsonl --region GB
    """
    from preftune.prompts.recognise import REGIONS
    from preftune.prompts.redact_file import redact_file

    done = redact_file(
        source,
        out,
        responses=responses,
        responses_out=responses_out,
        recogniser=recogniser,
        regions=region or REGIONS,
        forget_origin=forget_origin,
    )
    _lines(
        ("prompts", f"{done.prompts:,}, of them {done.touched:,} with something to replace"),
        ("merged", f"{done.merged:,} became equal to another"),
    )
    if responses:
        found = f"{done.responses:,}, of them {done.responses_touched:,} with something to replace"
        _lines(("responses", found))
    _lines(*(("replaced", f"{count:,} {kind}") for kind, count in done.replaced.items()))
    _lines(("names by", done.name_recogniser), ("written", f"{done.written:,} prompts to {out}"))


@group.command("dedupe")
def dedupe_command(
    source: Annotated[Path, SOURCE],
    out: Annotated[Path, OUT],
    near: Annotated[
        float | None,
        typer.Option(help="Drop near duplicates from this likeness on, such as 0.8."),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(help="Who stands for whom; else OUT.groups.jsonl.", show_default=False),
    ] = None,
) -> None:
    """Keep the most seen of prompts that are the same, or nearly, and add up their counts.

    Example: preftune prompts dedupe prompts.jsonl --out unique.jsonl --near 0.8
    """
    from preftune.prompts.dedupe import dedupe_file

    done = dedupe_file(source, out, near=near, groups_out=groups)
    _lines(
        ("prompts", f"{done.prompts:,}, asked {done.seen:,} times"),
        ("exact", f"{done.exact:,} dropped: the same but for case and white space"),
    )
    if done.threshold is not None:
        _lines(("near", f"{done.near:,} dropped: likeness of {done.threshold:g} or more"))
    _lines(
        ("groups", f"{done.groups:,} prompts stand for others"),
        ("written", f"{done.written:,} prompts to {out}"),
    )


@group.command("select")
def select_command(
    source: Annotated[Path, SOURCE],
    out: Annotated[Path, OUT],
    n: Annotated[int, typer.Option("--n", help="Prompts to choose.")],
    by: Annotated[
        str,
        typer.Option(help="How the tags that make the slices begin, as kind:", show_default=False),
    ] = "",
    min_per_slice: Annotated[int, typer.Option(help="Least of each slice.")] = 0,
    traffic_weight: Annotated[
        float, typer.Option(help="0: every prompt alike; 1: as often as it is asked.")
    ] = 0.5,
    held_out: Annotated[
        float, typer.Option(help="Share to hold out, in OUT.held-out.jsonl; never chosen.")
    ] = 0.0,
    exclude: Annotated[
        Path | None, typer.Option(help="Prompts never to choose, such as those held out before.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Groups of `dedupe`: a group is never on both sides.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other prompts.")] = 0,
) -> None:
    """Choose prompts to label: by slice and traffic, rare slices guaranteed.

    Example: preftune prompts select unique.jsonl --out label.jsonl --n 500 --by kind: --held-out .1
    """
    from preftune.prompts.select import SelectSettings, select_file
    from preftune.settings import build

    flags: dict[str, Any] = {
        "n": n,
        "by": by,
        "min_per_slice": min_per_slice,
        "traffic_weight": traffic_weight,
        "held_out": held_out,
        "seed": seed,
    }
    settings = build(SelectSettings, flags, where="command line")
    _show_selected(select_file(source, out, settings, exclude=exclude, groups=groups), out)


def _show_imported(done: "ImportReport", *, out: Path, responses: Path | None, key: Path) -> None:
    _lines(
        ("format", done.format),
        ("rows", f"{done.rows:,}"),
        ("prompts", f"{done.prompts:,} different; {done.repeats:,} rows repeat one of them"),
        ("replies", f"{done.replies:,} in the log; {done.unanswered:,} rows have none"),
    )
    for kind, lines in sorted(done.refused.items()):
        shown = ", ".join(map(str, lines[:_FIRST_LINES])) + ", …" * (len(lines) > _FIRST_LINES)
        _lines(("refused", f"{len(lines):,} {kind}: line{'s' * (len(lines) > 1)} {shown}"))
    _lines(*(("odd", f"{count:,} × {what}") for what, count in done.odd.items()))
    if done.ids_hashed:
        _lines(("ids", f"{done.ids_hashed:,} hashed; {key} leads back: keep it with the log"))
    _lines(("written", f"{done.prompts:,} prompts to {out}"))
    if responses:
        _lines(("written", f"{done.responses:,} different responses to {responses}"))


def _show_selected(done: "SelectReport", out: Path) -> None:
    from preftune.text import visible

    header = ("slice", "held out", "available", "chosen", "traffic", "chosen share")
    rows = [
        (
            visible(one.name),
            f"{one.held_out:,}",
            f"{one.available:,}",
            f"{one.chosen:,}",
            f"{one.traffic_frac:.1%}",
            f"{one.chosen_frac:.1%}",
        )
        for one in done.slices
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for first, *rest in (header, *rows):
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        typer.echo("  ".join((first.ljust(widths[0]), *cells)))
    for one in done.unfilled:
        typer.echo(
            f"not filled: {visible(one.name)} has {one.available:,} of the {done.min_per_slice:,} "
            "it was to give"
        )
    if done.chosen < done.asked_for:
        typer.echo(f"not filled: {done.chosen:,} chosen of {done.asked_for:,}, there are no more")
    if done.excluded:
        typer.echo(f"excluded  {done.excluded:,} prompts")
    typer.echo(f"written   {done.chosen:,} prompts to {out}")


def _lines(*lines: tuple[str, str]) -> None:
    for label, said in lines:
        typer.echo(f"{label:<10}{said}")
