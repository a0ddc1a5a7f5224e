"""What a batch of rollouts teaches: passes, minibatches, micro-batches, and their gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.losses.kl import kl_k1, kl_k2, kl_k3, kl_k3_straight_through
from preftune.losses.policy_gradient import (
    approx_kl,
    clipped,
    dr_grpo_weights,
    dual_clip_ppo_loss,
    importance_weights,
    log_ratio,
    out_of_limit,
    ppo_loss,
    sequence_sum_weights,
    sequence_token_weights,
    token_weights,
)
from preftune.losses.value import value_loss
from preftune.training.policy_settings import LeashSettings, UpdateSettings
from preftune.training.roles import Roles, Rows
from preftune.training.rollout_batch import Experience
from preftune.training.run import Run

AGREEMENT = 0.01  # nats a token, mean: sampler and trainer closer than this count as one
KL = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3, "k3+": kl_k3_straight_through}
Minibatch = list[list[int]]  # micro-batches of prompt numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What the losses compare with, for the B responses of a step."""

    old: Float[Tensor, "B T"]  # log-probs before the step's first update
    reference: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]  # own tokens of the responses that have a reward


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticTargets:
    """What the value model's losses compare with."""

    old_values: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    value_clip: float


class Cut:
    """The targets of some responses, cut to their longest, where the model computes."""

    def __init__(self, batch: Experience, micro: Sequence[int], like: Tensor) -> None:
        self.places, self.width = places_of(micro, batch), like.shape[1]
        self.device = like.device

    def __call__(self, values: Tensor) -> Tensor:
        """Return the rows and columns that matter here."""
        return values[self.places, : self.width].to(self.device)


@dataclass(kw_only=True, slots=True)
class Sums:
    """What is added up over the micro-batches of a step."""

    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, values: Tensor, count: float) -> None:
        """Add a sum over `count` things."""
        self.totals[name] = self.totals.get(name, 0.0) + float(values.detach())
        self.counts[name] = self.counts.get(name, 0.0) + count

    def include(self, other: "Sums") -> None:
        """Add all that another has added up."""
        for name, total in other.totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0.0) + other.counts[name]

    def means(self) -> dict[str, float]:
        """Return every sum over its count."""
        return {name: total / max(self.counts[name], 1.0) for name, total in self.totals.items()}


def passes(rows: Rows, s: UpdateSettings, *, token_limit: int, seed: int) -> list[list[Minibatch]]:
    """Return the minibatches of each pass over a step's prompts, cut into micro-batches.

    The first pass takes the prompts in their order, the others in orders of their own.
    """
    lengths = [stream_length(row) for row in rows]
    found = []
    for number in range(s.updates):
        order = np.arange(len(rows))
        if number:
            order = np.random.default_rng([seed, number]).permutation(len(rows))
        parts = [part.tolist() for part in np.array_split(order, min(s.minibatches, len(rows)))]
        found.append(
            [
                [[part[i] for i in micro] for micro in _micro(part, lengths, token_limit)]
                for part in parts
            ]
        )
    return found


def _micro(part: Sequence[int], lengths: Sequence[int], token_limit: int) -> Iterator[range]:
    return micro_batches([lengths[number] for number in part], token_limit)


@torch.no_grad()
def asked(
    ask: Callable[[Rows], Float[Tensor, "B W"]],
    batch: Experience,
    minibatches: Sequence[Minibatch],
) -> Float[Tensor, "B T"]:
    """Return what a model says of every token of a batch, in the micro-batches of the first pass.

    The same micro-batches give the same bits, so that the first ratio of an update is exactly 1.
    """
    found = torch.zeros(batch.mask.shape)
    for micro in (micro for minibatch in minibatches for micro in minibatch):
        values = ask([batch.rows[number] for number in micro]).cpu()
        found[places_of(micro, batch), : values.shape[1]] = values
    return found


def places_of(prompts: Sequence[int], batch: Experience) -> list[int]:
    """Return the places, among all responses of the step, of those to some prompts."""
    group = len(batch.rows[0])
    return [number * group + place for number in prompts for place in range(group)]


@dataclass(kw_only=True, slots=True)
class Update:
    """The gradients of one batch of rollouts, minibatch by minibatch, and their figures.

    Attributes:
        roles: the models.
        batch: the rollouts.
        targets: what the policy's losses compare with.
        critic: what the value model's compare with; None without one.
        s: clips, reduction, early stop.
        leash: how KL enters.
        kl_coef: price of KL now.
        longest: most tokens a response may have.
        single: one optimiser step only: the policy is still the one that drew.
        policy_learns: False while the value model warms up alone.
    """

    roles: Roles
    batch: Experience
    targets: Targets
    critic: CriticTargets | None = None
    s: UpdateSettings
    leash: LeashSettings
    kl_coef: float
    longest: int
    single: bool
    policy_learns: bool = True
    sums: Sums = field(default_factory=Sums)
    weighed: bool = field(init=False)  # the sampler disagreed with the trainer on this batch

    def __post_init__(self) -> None:
        gap = (self.targets.old - self.batch.sampled).abs()[self.targets.mask]
        self.weighed = gap.numel() > 0 and float(gap.mean()) > AGREEMENT

    def learn(
        self, run: Run, learner: Learner, plan: Sequence[Sequence[Minibatch]], *, step: int
    ) -> dict[str, float]:
        """Make the optimiser steps of the plan (see `passes`); return their figures."""
        learnt: dict[str, float] = {}
        made = 0
        for minibatch in (minibatch for one_pass in plan for minibatch in one_pass):
            moved = Sums()
            loss = self.policy(minibatch, moved) if self.policy_learns else 0.0
            if self.s.update_kl_stop and moved.means().get("approx_kl", 0) > self.s.update_kl_stop:
                learner.forget_gradients()
                break
            self.sums.include(moved)
            if self.critic is not None:
                loss += self.value(minibatch, self.critic)
            learnt = run.learn(learner, step=step, loss=loss)
            made += 1
        means = self.sums.means()
        return {"loss": means.get("policy_loss", 0.0), **means, **learnt, "optimizer_steps": made}

    def policy(self, minibatch: Minibatch, sums: Sums) -> float:
        """Leave the policy's gradient of a minibatch; return its loss, of the whole minibatch.

        Its figures are added to `sums`, also how far it has moved from the policy that drew.
        """
        places = places_of([number for micro in minibatch for number in micro], self.batch)
        mask = self.targets.mask[places]
        tokens, sequences = int(mask.sum()), int(mask.any(-1).sum())
        if not tokens:
            return 0.0
        total = 0.0
        for micro in minibatch:
            logprobs = self.roles.logprobs([self.batch.rows[number] for number in micro])
            cut = Cut(self.batch, micro, logprobs)
            own, old = cut(self.targets.mask), cut(self.targets.old)
            if self.single:
                old = logprobs.detach()
            losses = self._clipped(logprobs, old, cut(self.targets.advantages))
            losses = losses * self._importance(old, cut(self.batch.sampled), own, sums)
            if self.kl_coef and self.leash.kl_in == "loss":
                losses = losses + self.kl_coef * self._pull(
                    logprobs, cut(self.targets.reference), own, sums
                )
            loss = (losses * self._weights(own, tokens, sequences)).sum()
            loss.backward()
            total += loss.item()
            self._measure(logprobs.detach(), old, own, sums)
        sums.add("policy_loss", torch.tensor(total), 1.0)
        return total

    def value(self, minibatch: Minibatch, critic: CriticTargets) -> float:
        """Leave the value model's gradient of a minibatch; return its loss per token."""
        places = places_of([number for micro in minibatch for number in micro], self.batch)
        tokens = int(self.targets.mask[places].sum())
        total = 0.0
        with self.roles.valuing() as values_of:
            for micro in minibatch if tokens else ():
                values = values_of([self.batch.rows[number] for number in micro])
                cut = Cut(self.batch, micro, values)
                losses = value_loss(
                    values=values,
                    old_values=cut(critic.old_values),
                    returns=cut(critic.returns),
                    clip_eps=critic.value_clip,
                )
                loss = (losses * token_weights(cut(self.targets.mask), tokens=tokens)).sum()
                loss.backward()
                total += loss.item()
        self.sums.add("value_loss", torch.tensor(total), 1.0)
        return total

    def _clipped(self, logprobs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        given: dict[str, Any] = {
            "logprobs": logprobs,
            "old_logprobs": old,
            "advantages": advantages,
            "clip_low": self.s.clip_low,
            "clip_high": self.s.clip_high,
        }
        if self.s.dual_clip:
            return dual_clip_ppo_loss(**given, dual_clip=self.s.dual_clip)
        return ppo_loss(**given)

    def _importance(self, old: Tensor, sampled: Tensor, own: Tensor, sums: Sums) -> Tensor:
        """Return what tokens weigh because another engine, or older weights, drew them."""
        gap = (old - sampled).abs()[own]
        sums.add("sampler_gap", gap.sum(), float(gap.numel()))
        if not self.weighed:
            return torch.ones_like(old)
        return importance_weights(
            trainer_logprobs=old, sampler_logprobs=sampled, most=self.s.importance_cap
        )

    def _pull(self, logprobs: Tensor, reference: Tensor, own: Tensor, sums: Sums) -> Tensor:
        """Return the KL of each token as a loss; k3, which overflows, is held like a ratio."""
        held = out_of_limit(logprobs=logprobs.detach(), old_logprobs=reference)
        sums.add("held_frac", held[own].sum(), float(own.sum()))
        if self.leash.kl_estimator == "k3":
            logprobs = reference + log_ratio(logprobs=logprobs, old_logprobs=reference)
        return KL[self.leash.kl_estimator](policy_logprobs=logprobs, reference_logprobs=reference)

    def _measure(self, logprobs: Tensor, old: Tensor, own: Tensor, sums: Sums) -> None:
        """Add up how far this minibatch has moved from the policy that drew."""
        count = float(own.sum())
        sums.add("approx_kl", approx_kl(logprobs=logprobs, old_logprobs=old)[own].sum(), count)
        past = clipped(
            logprobs=logprobs,
            old_logprobs=old,
            clip_low=self.s.clip_low,
            clip_high=self.s.clip_high,
        )
        sums.add("clip_frac", past[own].sum(), count)

    def _weights(self, mask: Tensor, tokens: int, sequences: int) -> Tensor:
        match self.s.reduction:
            case "token-mean":
                return token_weights(mask, tokens=tokens)
            case "sequence-mean":
                return sequence_token_weights(mask, sequences=sequences)
            case "sequence-sum":
                return sequence_sum_weights(mask, sequences=sequences)
            case _:
                return dr_grpo_weights(mask, sequences=sequences, longest=self.longest)
