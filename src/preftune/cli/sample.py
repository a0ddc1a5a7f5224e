"""`preftune sample` draws responses, `preftune score` lets a reward model mark them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftune.inference.score import PairAccuracy
    from preftune.responses.sample import SampleReport

Model = Annotated[str, typer.Argument(help="Model folder, adapter folder or hub id.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("sample")(sample_command)
    app.command("score")(score_command)


def sample_command(
    model: Model,
    *,
    prompts: Annotated[Path, typer.Option(help="Prompts, in any format that has them.")],
    out: Annotated[Path, typer.Option(help="File of responses to make; JSON lines.")],
    n: Annotated[int, typer.Option("--n", help="Responses per prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 the model as it is.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Likeliest tokens that hold this mass.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="This many likeliest tokens; 0: all.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest response, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Most responses written at once.")] = 256,
    name: Annotated[
        str, typer.Option(help="Who answers, as written on each response; else folder@hash.")
    ] = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Draw responses to prompts from a model; stopped at any moment, the same command goes on.

    Example: preftune sample runs/sft/model --prompts prompts.jsonl --out responses.jsonl --n 4
    """
    from preftune.responses.generator import GenerateSettings
    from preftune.settings import build

    flags = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "batch_size": batch_size,
    }
    settings = build(GenerateSettings, flags, where="command line")

    from preftune.datasets.read import read_prompts
    from preftune.inference.backend import load_generator
    from preftune.responses.sample import sample

    asked = read_prompts(prompts)
    generator = load_generator(model, settings, name=name, trust_remote_code=trust_remote_code)
    _print_sampled(sample(asked, generator, n=n, seed=seed, out=out, block=4 * batch_size))


def score_command(
    model: Annotated[str, typer.Argument(help="Folder of a reward model.")],
    file: Annotated[Path, typer.Argument(help="Pairs, or responses with --prompts.")],
    out: Annotated[Path, typer.Option(help="File to write; JSON lines.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts of the responses.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most rows computed at once.")] = 256,
) -> None:
    """Score responses with a reward model; for pairs, say how often it agrees with them.

    Example: preftune score runs/reward/model heldout.jsonl --out scored.jsonl
    """
    from preftune.inference.score_file import score_file

    report = score_file(model, file, out=out, prompts=prompts, batch_size=batch_size)
    typer.echo(f"{report.scored} responses scored: mean {report.mean:.4f}, std {report.std:.4f}")
    if report.replaced:
        typer.echo(f"{report.replaced} pairs held other scores; {out} has the new ones")
    if report.accuracy is not None:
        _print_accuracy(report.accuracy)
    typer.echo(f"written to {out}")


def _print_sampled(report: "SampleReport") -> None:
    if report.kept or report.cut:
        typer.echo(
            f"{report.kept} responses kept from an earlier run, {report.cut} cut and redrawn"
        )
    typer.echo(f"{report.responses} responses to {report.prompts} prompts in {report.out}")
    if report.unfinished:
        typer.echo(
            f"{report.unfinished} were cut at the longest length, with no end of turn; "
            "they are marked finished: false"
        )


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
