"""`preftune train unpaired | listwise`: methods on single responses and on ranked lists."""

import typer

from preftune.cli.options import from_flags
from preftune.cli.train import group
from preftune.training.method_settings import ListwiseSettings, UnpairedSettings


def register(_app: typer.Typer) -> None:
    """Add this module's commands to `preftune train`."""
    group.command("unpaired")(from_flags(UnpairedSettings, unpaired))
    group.command("listwise")(from_flags(ListwiseSettings, listwise))


def unpaired(settings: UnpairedSettings) -> None:
    """Tune an SFT model on single responses marked desirable or not (KTO, BCO, APO-zero).

    Example: preftune train unpaired --model runs/sft/final --data thumbs.jsonl --out runs/kto
    --loss kto --beta 0.1
    """
    from preftune.training.summary import summary
    from preftune.training.unpaired import train

    typer.echo(summary(train(settings).parent))


def listwise(settings: ListwiseSettings) -> None:
    """Direct preference optimisation of an SFT model on ranked lists (Plackett–Luce DPO).

    Example: preftune train listwise --model runs/sft/final --data rankings.jsonl
    --out runs/ranked --beta 0.1
    """
    from preftune.training.listwise import train
    from preftune.training.summary import summary

    typer.echo(summary(train(settings).parent))
