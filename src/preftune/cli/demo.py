"""`preftune demo`: the whole loop on the care desk."""

import typer

from preftune.cli.options import from_flags
from preftune.demo.settings import DemoSettings


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("demo")(from_flags(DemoSettings, demo))


def demo(settings: DemoSettings) -> None:
    """Run the whole loop in minutes: teach, sample, label, tune, prove, report.

    Needs no network and no GPU. The exit code is the gate's: 0 ship, 1 don't ship, 3 can't tell.

    Example: preftune demo --method rloo

    Example: preftune demo --sabotage lr-x10
    """
    from preftune.demo.pipeline import expected, run_demo

    result = run_demo(settings, typer.echo)
    if line := expected(settings, result):
        typer.echo(f"\n   {line}")
    typer.echo(f"\n   {result.seconds:.0f} s in all. The report: {result.report}")
    raise typer.Exit(result.gate.exit_code)
