"""`preftune score FILE`: reward models mark responses, one model or several made one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftune.cli import reward

if TYPE_CHECKING:
    from preftune.inference.score import PairAccuracy


def register(app: typer.Typer) -> None:
    """Add this module's commands, and `preftune reward`, to the command line."""
    app.command("score")(score_command)
    app.add_typer(reward.group, name="reward")


def score_command(
    file: Annotated[Path, typer.Argument(help="Pairs, or responses with --prompts.")],
    *,
    model: Annotated[
        list[str], typer.Option(help="Folder of a reward model; again for each of several.")
    ],
    out: Annotated[Path, typer.Option(help="File to write; JSON lines.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts of the responses.")] = None,
    combine: Annotated[
        Path | None,
        typer.Option(help="YAML file that says how several models combine; else their mean."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most rows computed at once.")] = 256,
) -> None:
    """Score responses with reward models; for pairs, say how often they agree with them.

    Example: preftune score heldout.jsonl --model runs/reward/final --out scored.jsonl

    Example: preftune score responses.jsonl --prompts prompts.jsonl --model runs/harmless/final
    --model runs/helpful/final --combine gate.yaml --out scores.jsonl
    """
    from preftune.inference.combine import read_combination
    from preftune.inference.score_file import score_file

    report = score_file(
        model,
        file,
        out=out,
        prompts=prompts,
        how=read_combination(combine),
        batch_size=batch_size,
    )
    typer.echo(f"{report.scored} responses scored: mean {report.mean:.4f}, std {report.std:.4f}")
    for line in report.weights:
        typer.echo(f"  in memory: {line}")
    if report.clipped:
        typer.echo(f"{report.clipped} scores of single models were clipped")
    if report.replaced:
        typer.echo(f"{report.replaced} pairs held other scores; {out} has the new ones")
    if report.accuracy is not None:
        _print_accuracy(report.accuracy)
    typer.echo(f"written to {out}")


def _print_accuracy(found: "PairAccuracy") -> None:
    from preftune.stats.intervals import wilson

    length = wilson(found.baseline_right, found.pairs)
    low, high = found.interval.low, found.interval.high
    rows = [
        ("reward model", found.right, low, high),
        (f"length only ({found.baseline})", found.baseline_right, length.low, length.high),
    ]
    typer.echo(
        f"agreement with {found.pairs} pairs, 95 % intervals; {found.ties} ties count as wrong"
    )
    for name, right, bottom, top in rows:
        share = right / found.pairs
        typer.echo(f"  {name:30}  {share:7.2%}  ({bottom:.2%} to {top:.2%})  {right}/{found.pairs}")
