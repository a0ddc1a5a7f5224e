"""`preftune reward …`: put a reward model's scores into units, average models, look at them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftune.models.reward_card import Calibration, Fit, Normalisation

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Normalise, calibrate, average reward models."
)
Folder = Annotated[Path, typer.Argument(help="Folder of a reward model; it is changed.")]
Prompts = Annotated[Path | None, typer.Option(help="Prompts of the responses.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Most rows computed at once.")]


@group.command("normalise")
def normalise(
    folder: Folder,
    *,
    on: Annotated[
        Path, typer.Option(help="Responses (best: samples of the SFT model), rows or pairs.")
    ],
    prompts: Prompts = None,
    batch_size: BatchSize = 256,
) -> None:
    """Give scores mean 0 and standard deviation 1 on a reference set; kept with the model.

    Example: preftune reward normalise runs/reward/final --on samples.jsonl --prompts prompts.jsonl
    """
    from preftune.evaluation import reward_model

    _show_normalisation(reward_model.normalise(folder, on, prompts=prompts, batch_size=batch_size))


@group.command("calibrate")
def calibrate(
    folder: Folder,
    *,
    pairs: Annotated[Path, typer.Option(help="Pairs that the model was not trained on.")],
    plot: Annotated[Path | None, typer.Option(help="Reliability diagram to draw (.svg).")] = None,
    batch_size: BatchSize = 256,
) -> None:
    """Fit what a difference of scores is worth in odds; kept with the model, no rank changes.

    Example: preftune reward calibrate runs/reward/final --pairs heldout.jsonl --plot odds.svg
    """
    from preftune.evaluation import reward_model

    found = reward_model.calibrate(
        folder, pairs, plot=plot, batch_size=batch_size, tell=partial(typer.echo, err=True)
    )
    _show_calibration(found)
    if plot is not None:
        typer.echo(f"drawn in {plot}")


@group.command("average")
def average(
    folders: Annotated[list[Path], typer.Argument(help="Reward models trained from one start.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    on: Annotated[
        Path | None, typer.Option(help="Responses to normalise the average on; else it is not.")
    ] = None,
    prompts: Prompts = None,
) -> None:
    """Make one reward model of several by averaging their weights (WARM).

    Example: preftune reward average runs/reward-0/final runs/reward-1/final --out warm
    --on samples.jsonl --prompts prompts.jsonl
    """
    from preftune.inference.score_file import read_answers
    from preftune.models.weight_average import average_reward_models

    if on is not None:
        read_answers(on, prompts)  # refuses what cannot be normalised on before anything is made
    average_reward_models(folders, out)
    typer.echo(f"average of {len(folders)} reward models in {out}")
    if on is None:
        typer.echo(f"its scores are raw: preftune reward normalise {out} --on FILE")
    else:
        normalise(out, on=on, prompts=prompts)


@group.command("show")
def show(
    folders: Annotated[list[Path], typer.Argument(help="Reward models as they would be combined.")],
) -> None:
    """Show what reward models weigh together in memory, and what their scores mean.

    Example: preftune reward show runs/helpful/final runs/harmless/final
    """
    from preftune.models.reward_set import MB, load_reward_set

    rewards = load_reward_set(folders)
    for copy in rewards.describe():
        typer.echo(str(copy))
    typer.echo(f"all: {rewards.bytes / MB:.1f} MB")
    for member in rewards.members:
        typer.echo(member.name)
        card = member.model.card
        if card.normalisation is not None:
            _show_normalisation(card.normalisation)
        else:
            typer.echo("  not normalised" if not member.model.normalised else "  normalised")
        if card.calibration is not None:
            _show_calibration(card.calibration)


def _show_normalisation(found: "Normalisation") -> None:
    from preftune.text import visible

    said = ", ".join(map(visible, found.answered_by))
    typer.echo(
        f"  mean 0, sd 1 on {found.responses} responses of {visible(found.source)}"
        f"{f' by {said}' if said else ''} (raw: mean {found.mean:.4f}, sd {found.std:.4f})"
    )


def _show_calibration(found: "Calibration") -> None:
    from preftune.text import visible

    typer.echo(
        f"  a raw difference of 1 is {found.slope:.4f} nats of log-odds, fitted on {found.pairs} "
        f"pairs of {visible(found.source)}"
    )
    typer.echo(f"  before: {_line(found.before)}")
    typer.echo(f"  after:  {_line(found.after)}  (on the half it was not fitted on)")


def _line(fit: "Fit") -> str:
    return f"ECE {fit.ece:.4f}, Brier {fit.brier:.4f}, log loss {fit.log_loss:.4f} nats a pair"
