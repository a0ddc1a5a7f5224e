"""`preftune data inspect | check | split`: look at data before it is trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from preftune.cli.data import group
from preftune.text import visible

SOURCE = Annotated[Path, typer.Argument(help="A file in any format that `data import` reads.")]
FORMAT = Annotated[str | None, typer.Option(help="Format of the file; detected when left out.")]
PLAIN_WIDTH = 100  # columns when the output is no terminal


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line: they hang on `preftune data`."""


@group.command()
def inspect(
    file: SOURCE,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for inspect.svg, inspect.png and card.md.")
    ] = None,
    format: FORMAT = None,
) -> None:
    """Show what is in a file: counts, lengths, ties, length bias, repeats, odd rows.

    Example: preftune data inspect pairs.jsonl --out look
    """
    from preftune.datasets import card
    from preftune.datasets.inspect import inspect_file, summary

    found = inspect_file(file, format=format)
    show_table(("", ""), summary(found))
    if found.lengths:
        show_table(card.LENGTH_COLUMNS, card.length_rows(found), right=True)
    if found.findings:
        show_findings(map(card.finding_row, found.findings))
    if out is not None:
        for path in card.write_inspection(found, out):
            typer.echo(f"wrote {path}")


@group.command()
def check(
    file: SOURCE,
    *,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A file that must share no prompt with it; may be given again."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every finding and line here.")] = None,
    format: FORMAT = None,
) -> None:
    """List what must be looked at. Exit code 0: clean, 1: look at it, 2: unusable.

    Example: preftune data check train.jsonl --against test.jsonl
    """
    from preftune.datasets.card import finding_row
    from preftune.datasets.checks import check_file
    from preftune.files import write_json

    checked = check_file(file, against=against or (), format=format)
    show_findings(map(finding_row, checked.findings))
    verdict = ("clean", "look at the findings", "unusable: no row can be used")[checked.exit_code]
    rows = f"{checked.rows:,} rows ({checked.format}), {checked.usable:,} usable"
    typer.echo(f"{visible(checked.source)}: {rows}: {verdict}")
    if json is not None:
        write_json(json, asdict(checked) | {"exit_code": checked.exit_code})
    raise typer.Exit(checked.exit_code)


@group.command()
def split(
    file: SOURCE,
    *,
    out: Annotated[Path, typer.Option(help="New folder for the parts, split.json and card.md.")],
    test: Annotated[float, typer.Option(help="Share of the rows for test.jsonl.")] = 0.1,
    validation: Annotated[float, typer.Option(help="Share for validation.jsonl; 0: none.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
    by: Annotated[
        str, typer.Option(help="What stays together: prompt, first-turn or tag:PREFIX.")
    ] = "prompt",
    format: FORMAT = None,
) -> None:
    """Split by prompt, never by row, into train, test and, when asked, validation.

    Example: preftune data split pairs.jsonl --out parts --test 0.1 --validation 0.1
    """
    from preftune.datasets.split import part_rows, split_file

    rest = {"test": test} | ({"validation": validation} if validation else {})
    fractions = {"train": 1 - sum(rest.values()), **rest}
    done = split_file(file, out, fractions=fractions, seed=seed, by=by, format=format)
    header, *rows = [row[:-1] for row in part_rows(done)]
    show_table(header, rows, right=True)
    typer.echo(f"wrote {', '.join(str(out / part.file) for part in done.parts.values())}")


def show_findings(rows: Iterable[Sequence[str]]) -> None:
    """Print the findings, each with its first lines and what to do."""
    for kind, count, lines, what, fix in rows:
        typer.echo(visible(f"{kind}: {count} rows, lines {lines}"))
        indent = "    "
        text = visible(f"{what}. {fix}")
        typer.echo(fill(text, PLAIN_WIDTH, initial_indent=indent, subsequent_indent=indent))


def show_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False
) -> None:
    """Print a table; all but its first column to the right when asked. Cells are never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    table = Table(box=None, show_header=any(header), pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(Text(name), justify="right" if right and place else "left")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)
    console.print()
