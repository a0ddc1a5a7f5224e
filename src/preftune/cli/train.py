"""`preftune train sft | reward | direct`: one command per method, every setting a flag."""

from pathlib import Path

import typer

from preftune.cli.options import from_flags
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import DirectSettings, SftSettings

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Train a model in a run folder."
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="train")
    group.command("sft")(from_flags(SftSettings, sft))
    group.command("reward")(from_flags(RewardSettings, reward))
    group.command("direct")(from_flags(DirectSettings, direct))


def sft(settings: SftSettings) -> None:
    """Supervised fine-tuning: imitate the response of each row.

    Example: preftune train sft --model base --data chats.jsonl --out runs/sft --lr 1e-3
    """
    from preftune.training.sft import train

    _show(train(settings))


def reward(settings: RewardSettings) -> None:
    """Train a reward model on preference pairs or ranked lists, ties included.

    Example: preftune train reward --model base --data train.jsonl --held-out test.jsonl
    --out runs/reward
    """
    from preftune.training.reward import train

    _show(train(settings))


def direct(settings: DirectSettings) -> None:
    """Tune an SFT model on preference pairs: DPO by default, or another loss or sum of losses.

    A setting that the loss does not read is refused. docs/training.md has a table of the losses.

    Example: preftune train direct --model runs/sft/final --data train.jsonl --out runs/dpo

    Example: preftune train direct --model runs/sft/final --data train.jsonl --out runs/simpo
    --loss simpo --beta 2 --simpo-gamma 0.5
    """
    from preftune.training.direct import train

    _show(train(settings))


def _show(final: Path) -> None:
    """Print how the run ended: first and last loss, warnings, held-out accuracy, where it is."""
    from preftune.training.summary import summary

    typer.echo(summary(final.parent))
