"""`preftune raters`: who is reliable, how far raters agree, and what would change without one."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftune.cli.data_check import show_table
from preftune.text import visible

if TYPE_CHECKING:
    from preftune.comparisons.rater_change import RaterChange
    from preftune.comparisons.rater_report import RaterRow
    from preftune.comparisons.rater_summary import Agreement, RaterSummary
    from preftune.stats.shares import Share

NONE = "–"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command()(raters)


def raters(
    file: Annotated[Path, typer.Argument(help="Comparisons and their judgments.")],
    *,
    dimension: Annotated[str, typer.Option(help="Dimension of the table.")] = "overall",
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only raters of this kind, such as human; may be given again."),
    ] = None,
    gold: Annotated[str, typer.Option(help="Rater whose verdicts are the right answers.")] = "",
    without: Annotated[str, typer.Option(help="Show what would change without this rater.")] = "",
    most: Annotated[int, typer.Option(help="Raters, and flags, to print.", min=1)] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Folder for raters.svg and raters.json, all rows.")
    ] = None,
) -> None:
    """Show agreement, a row per rater, side and length bias, and what to look at.

    Example: preftune raters judged.jsonl --kind human --gold expert --out look
    """
    from preftune.comparisons.rater_summary import summarise_raters
    from preftune.datasets.read import read_comparisons

    comparisons, judgments = read_comparisons(file)
    found = summarise_raters(
        comparisons,
        judgments,
        dimension=dimension,
        gold=gold,
        kinds=kind or (),
        without=without,
    )
    _print_summary(found, most)
    if found.change is not None:
        _print_change(found.change)
    if out is not None:
        _write(found, out)


def _print_summary(found: "RaterSummary", most: int) -> None:
    from preftune.comparisons.rater_summary import REAL_SETS

    typer.echo("agreement (Krippendorff's alpha)")
    levels = ("dimension", "raters", "votes", "level", "alpha", "95 %")
    show_table(levels, map(_agreement_row, found.agreement))
    typer.echo("for comparison, people in public sets (nominal)")
    show_table(("set", "alpha", ""), [(name, f"{a:.3f}", what) for name, a, what in REAL_SETS])
    typer.echo(f"raters, dimension {visible(found.dimension)}; intervals count {found.clusters}s")
    header = (
        "rater", "kind", "votes", "ties", "med. s", "gold", "repeats", "first", "others",
        "chance", "skill", "side",
    )  # fmt: skip
    show_table(header, [_rater_row(row, found) for row in found.rows[:most]], right=True)
    if len(found.rows) > most:
        typer.echo(f"and {len(found.rows) - most:,} more raters (--most)")
    _print_flags(found.rows, most)
    if found.model is None:
        typer.echo(f"no rater model: {visible(found.why_no_model)}")
    for lean in (*found.positions, *found.lengths):
        typer.echo(visible(str(lean)))


def _agreement_row(row: "Agreement") -> tuple[str, ...]:
    interval = f"{row.low:.3f} to {row.high:.3f}" if row.low is not None else NONE
    return (
        row.dimension,
        f"{row.raters:,} {row.kind}",
        f"{row.votes:,}",
        row.level,
        NONE if row.alpha is None else f"{row.alpha:.3f}",
        interval,
    )


def _rater_row(row: "RaterRow", found: "RaterSummary") -> tuple[str, ...]:
    skill, side = NONE, NONE
    if found.model is not None:
        skill = f"{found.model.skill[row.rater]:.2f}"
        side = f"{found.model.side[row.rater]:+.2f}"
    return (
        row.rater,
        row.kind,
        f"{row.votes:,}",
        f"{row.tie_frac:.0%}",
        NONE if row.median_s is None else f"{row.median_s:.1f}",
        _share(row.gold),
        _share(row.repeats),
        _share(row.first),
        _share(row.others),
        NONE if row.chance is None else f"{row.chance:.0%}",
        skill,
        side,
    )


def _share(share: "Share | None") -> str:
    if share is None:
        return NONE
    return f"{share.value:.0%} {100 * share.low:.0f}–{100 * share.high:.0f}"


def _print_flags(rows: "Iterable[RaterRow]", most: int) -> None:
    flagged = [(row.rater, flag) for row in rows for flag in row.flags]
    typer.echo(f"to look at: {len(flagged)} flags" if flagged else "to look at: nobody")
    for rater, flag in flagged[:most]:
        typer.echo(visible(f"  {rater}: {flag}"))
    if len(flagged) > most:
        typer.echo(f"  and {len(flagged) - most:,} more (--most)")


def _print_change(change: "RaterChange") -> None:
    typer.echo(visible(f"without {change.rater} ({change.judgments:,} judgments):"))
    typer.echo(
        f"  pairs gained {len(change.gained):,}, lost {len(change.lost):,}, "
        f"flipped {len(change.flipped):,}, as before {change.kept:,}"
    )
    before, after = (
        NONE if alpha is None else f"{alpha:.3f}"
        for alpha in (change.alpha_before, change.alpha_after)
    )
    typer.echo(f"  alpha of who is better: {before} before, {after} after")


def _write(found: "RaterSummary", out: Path) -> None:
    from dataclasses import asdict

    from preftune.comparisons.rater_plot import plot_raters
    from preftune.files import make_folder, write_json

    make_folder(out)
    write_json(out / "raters.json", asdict(found))
    written = [out / "raters.json"]
    if found.model is not None:
        plot_raters(found.rows, found.model, out / "raters.svg")
        written.append(out / "raters.svg")
    typer.echo(f"wrote {', '.join(map(str, written))}")
