"""`preftune best-of-n`: draw n, score them, keep the best, say what that gained and cost."""

from pathlib import Path
from typing import Annotated

import typer

from preftune.cli.sample import (
    BatchSize,
    Longest,
    Name,
    Seed,
    TopK,
    TopP,
    TrustRemoteCode,
)

Rewards = Annotated[
    list[str] | None, typer.Option(help="Folder of a reward model; repeat for several.")
]
Grader = Annotated[Path | None, typer.Option(help="Grader (YAML, JSON) that chooses instead.")]
Combine = Annotated[
    Path | None, typer.Option(help="YAML: how several rewards become one; else their mean.")
]
Gold = Annotated[
    str, typer.Option(help="Reward model or grader that shows what a choice is truly worth.")
]
Deadline = Annotated[
    float, typer.Option(help="Take the best of what is drawn by then, seconds; 0: all.")
]
StopCost = Annotated[
    float,
    typer.Option(help="Stop where one more draw is expected to add less than this; 0: never."),
]
RejectAt = Annotated[
    int, typer.Option(help="Score beginnings of this length, finish the best; 0: all.")
]
KeepFrac = Annotated[float, typer.Option(help="Share of the beginnings to finish.")]
CheckFrac = Annotated[
    float, typer.Option(help="Share of prompts drawn in full, to see what saving loses.")
]
Distil = Annotated[Path | None, typer.Option(help="Also write the best as chats for train sft.")]
Pairs = Annotated[Path | None, typer.Option(help="Also write best against worst for train direct.")]


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("best-of-n")(best_of_n_command)


def best_of_n_command(
    model: Annotated[str, typer.Argument(help="Model folder, adapter folder or hub id.")],
    *,
    prompts: Annotated[Path, typer.Option(help="Prompts; with a grader, RFT rows.")],
    out: Annotated[Path, typer.Option(help="File of best responses to make; JSON lines.")],
    reward: Rewards = None,
    grader: Grader = None,
    n: Annotated[int, typer.Option("--n", help="Responses per prompt.")] = 16,
    combine: Combine = None,
    gold: Gold = "",
    deadline_s: Deadline = 0.0,
    stop_cost: StopCost = 0.0,
    reject_at_tokens: RejectAt = 0,
    keep_frac: KeepFrac = 0.25,
    check_frac: CheckFrac = 0.1,
    distil: Distil = None,
    pairs: Pairs = None,
    temperature: Annotated[float, typer.Option(help="1 the model as it is.")] = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_new_tokens: Longest = 256,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    name: Name = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Draw n responses to each prompt, score them, write the best; stopped, it goes on.

    Example: preftune best-of-n runs/sft/final --reward runs/reward/final --prompts prompts.jsonl
    --n 16 --out best.jsonl
    """
    given = {**locals(), "reward": reward or []}
    from preftune.inference.best_of_n_report import report_lines
    from preftune.inference.best_of_n_run import run_best_of_n
    from preftune.inference.best_of_n_settings import BestOfNSettings
    from preftune.settings import build

    report = run_best_of_n(build(BestOfNSettings, given, where="command line"))
    for line in report_lines(report):
        typer.echo(line)
    typer.echo(f"written to {out}; all draws, scores, report and plot lie beside it")
