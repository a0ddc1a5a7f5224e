"""`preftune data …`: the group all data commands hang on, and import and convert."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftune.datasets import Transferred

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Read, check, split and convert data."
)
_FIRST_LINES = 5  # line numbers shown of each kind of problem

FORMATS = (
    "preftune, hh, trl, trl-text, trl-implicit, trl-unpaired, trl-completion, trl-prompt, "
    "ultrafeedback, openai, chat, ranked, csv, parquet"
)
SOURCE = typer.Argument(help="JSON Lines, CSV (each may be .gz) or Parquet.")
OUT = typer.Option(help="File to write; .gz packs it.")
FORMAT = typer.Option(help=f"Format of FILE, else detected: {FORMATS}.", show_default=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="data")


@group.command("import")
def import_data(
    file: Annotated[Path, SOURCE],
    out: Annotated[Path, OUT],
    format: Annotated[str | None, FORMAT] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Put bad rows in OUT.refused.jsonl and go on.")
    ] = False,
) -> None:
    """Read a file of any known format into our own, which holds all that was said.

    Example: preftune data import harmless-base.jsonl.gz --out pairs.jsonl --skip-bad
    """
    from preftune.datasets import import_file

    done = import_file(file, out, format=format, on_bad="skip" if skip_bad else "stop")
    _show(done, out, named=format is not None)


@group.command("convert")
def convert_data(
    file: Annotated[Path, SOURCE],
    out: Annotated[Path, OUT],
    to: Annotated[str, typer.Option(help=f"Format to write: {FORMATS}.")],
    format: Annotated[str | None, FORMAT] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="Kind of record to make: pairs, best-worst, unpaired, demonstrations, prompts. "
            "Left out: the kind that the format holds.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a file in another format, and say what that format cannot hold.

    Ranked lists become pairs (`--into best-worst`: just the first against the last), pairs become
    demonstrations or unpaired rows, when the format asks for it.

    Example: preftune data convert pairs.jsonl --to chat --out sft.jsonl
    """
    from preftune.datasets import convert_file

    done = convert_file(file, out, to=to, target=into, format=format)
    _show(done, out, named=format is not None)


def _show(done: "Transferred", out: Path, *, named: bool) -> None:
    typer.echo(f"format   {done.format} ({'as named' if named else 'detected'})")
    typer.echo(f"rows     {done.rows:,}")
    for label, lines in (("odd", done.odd), ("refused", done.refused)):
        for kind, found in sorted(lines.items()):
            shown = ", ".join(map(str, found[:_FIRST_LINES]))
            more = ", …" if len(found) > _FIRST_LINES else ""
            plural = "s" if len(found) > 1 else ""
            typer.echo(f"{label:<9}{len(found):,} {kind}: line{plural} {shown}{more}")
    if done.refused_path:
        typer.echo(f"reasons  {done.refused_rows:,} refused rows in {done.refused_path}")
    for name, count in sorted(done.lost.counts.items()):
        typer.echo(f"not held {count:,} {name}")
    typer.echo(f"written  {done.lost.written:,} records to {out}")
