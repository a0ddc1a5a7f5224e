"""What one step tells about itself: rewards, margins, how far each side moved, and length."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.losses.kl import kl_k3
from preftune.training.loss_sum import LossSum
from preftune.training.pair_inputs import PairInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFigures:
    """What is kept of B pairs after their gradient is made; nats, without gradient."""

    chosen: Float[Tensor, " B"]  # log policy - log reference; log policy without a reference
    rejected: Float[Tensor, " B"]
    chosen_reward: Float[Tensor, " B"]
    rejected_reward: Float[Tensor, " B"]
    chosen_logps: Float[Tensor, " B"]
    rejected_logps: Float[Tensor, " B"]
    chosen_lengths: Float[Tensor, " B"]  # own tokens
    rejected_lengths: Float[Tensor, " B"]

    @classmethod
    def of(cls, p: PairInputs, loss: LossSum) -> "PairFigures":
        """Return the figures of a micro-batch."""
        chosen_reward, rejected_reward = loss.rewards(p)
        return cls(
            chosen=p.chosen.logratio.detach(),
            rejected=p.rejected.logratio.detach(),
            chosen_reward=chosen_reward.detach(),
            rejected_reward=rejected_reward.detach(),
            chosen_logps=p.chosen.logps.detach(),
            rejected_logps=p.rejected.logps.detach(),
            chosen_lengths=p.chosen.lengths,
            rejected_lengths=p.rejected.lengths,
        )

    @classmethod
    def joined(cls, parts: Sequence["PairFigures"]) -> "PairFigures":
        """Return the figures of all pairs of a step."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    @property
    def margins(self) -> Float[Tensor, " B"]:
        """How much more than the reference the policy prefers chosen."""
        return self.chosen - self.rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFigures:
    """What a step gave: its loss, and its pairs."""

    preference_loss: float
    nll: float  # of the chosen responses, nats per token
    nll_weight: float
    pairs: PairFigures
    has_reference: bool
    drift: float = 0.0  # mean of `drift` over the pairs

    def metrics(self) -> dict[str, float]:
        """Return a row for `metrics.jsonl`; means over the pairs of the step, in nats."""
        return {
            "loss": self.preference_loss + self.nll_weight * self.nll,
            "preference_loss": self.preference_loss,
            "nll": self.nll,
            **pair_metrics(self.pairs),
            **(reference_metrics if self.has_reference else policy_metrics)(self.pairs),
        }


def pair_metrics(f: PairFigures) -> dict[str, float]:
    """Return what can be said of any pair loss; right means chosen's reward is strictly higher."""
    return {
        "accuracy": _mean((f.chosen_reward > f.rejected_reward).float()),
        "margin": _mean(f.margins),
        "chosen_reward": _mean(f.chosen_reward),
        "rejected_reward": _mean(f.rejected_reward),
        "reward_margin": _mean(f.chosen_reward - f.rejected_reward),
        "length_correlation": correlation(f.margins, f.chosen_lengths - f.rejected_lengths),
    }


def reference_metrics(f: PairFigures) -> dict[str, float]:
    """Return how far chosen and rejected moved from the reference: a response, and a token."""
    return {
        "chosen_logratio": _mean(f.chosen),
        "rejected_logratio": _mean(f.rejected),
        "chosen_change_per_token": _mean(f.chosen / f.chosen_lengths),
        "rejected_change_per_token": _mean(f.rejected / f.rejected_lengths),
    }


def policy_metrics(f: PairFigures) -> dict[str, float]:
    """Return how likely chosen and rejected are by token, where no reference says from where."""
    return {
        "chosen_logp_per_token": _mean(f.chosen_logps / f.chosen_lengths),
        "rejected_logp_per_token": _mean(f.rejected_logps / f.rejected_lengths),
    }


@torch.no_grad()
def drift(p: PairInputs) -> Float[Tensor, " B"]:
    """Return k3 of each pair's responses in nats, the mean of its two; 0 where nothing has moved.

    Of responses that the reference wrote it estimates KL(reference : policy) without bias; of any
    others it still says how far their tokens have moved. It is never negative.
    """
    sides = [
        kl_k3(policy_logprobs=side.reference, reference_logprobs=side.logprobs).sum(-1)
        for side in (p.chosen, p.rejected)
    ]
    return (sides[0] + sides[1]) / 2


def correlation(x: Float[Tensor, " B"], y: Float[Tensor, " B"]) -> float:
    """Return the Pearson correlation over the pairs of a step, -1..1; 0 where one never varies."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 0 else 0.0


def _mean(values: Float[Tensor, " B"]) -> float:
    return values.mean().item()
