"""`preftune train rft | ppo | online`: methods that draw their own responses while they train."""

from pathlib import Path

import typer

from preftune.cli.options import from_flags
from preftune.cli.train import group
from preftune.training.policy_settings import OnlineSettings, PpoSettings, RftSettings


def register(_app: typer.Typer) -> None:
    """Add this module's commands to `preftune train`."""
    group.command("rft")(from_flags(RftSettings, rft))
    group.command("ppo")(from_flags(PpoSettings, ppo))
    group.command("online")(from_flags(OnlineSettings, online))


def rft(settings: RftSettings) -> None:
    """Reinforcement fine-tuning without a value model: RLOO, GRPO, REINFORCE++.

    Rewards come from reward models or from a grader; with a grader the prompts are RFT rows.

    Example: preftune train rft --model runs/sft/final --data prompts.jsonl
    --reward runs/reward/final --out runs/rloo --kl-coef 0.1 --kl-stop 1.5

    Example: preftune train rft --model runs/sft/final --data rows.jsonl --grader grader.yaml
    --advantage grpo --samples 8 --out runs/grpo
    """
    from preftune.training.rft import train

    _show(train(settings))


def ppo(settings: PpoSettings) -> None:
    """Proximal policy optimisation with a value model; with --lora-rank in one weight copy.

    Example: preftune train ppo --model runs/sft/final --data prompts.jsonl
    --reward runs/reward/final --out runs/ppo --lora-rank 16 --kl-stop 1.5
    """
    from preftune.training.ppo import train

    _show(train(settings))


def online(settings: OnlineSettings) -> None:
    """Online DPO: pairs of the policy's own responses, drawn and judged at every step.

    Example: preftune train online --model runs/sft/final --data prompts.jsonl
    --reward runs/reward/final --out runs/online --beta 0.1
    """
    from preftune.training.online import train

    _show(train(settings))


def _show(final: Path) -> None:
    """Print how the run ended."""
    from preftune.training.summary import summary

    typer.echo(summary(final.parent))
