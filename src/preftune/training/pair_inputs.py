"""What a pair loss may look at: log-probs of both sides of B pairs, and what their raters said."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from preftune.engine.logprobs import TokenLogprobs
from preftune.losses.batchwise import MarginAverage
from preftune.models.tokens import TokenSequence
from preftune.training.rows import PairRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """The chosen or the rejected responses of B pairs; own tokens from the left, 0 behind them."""

    logprobs: Float[Tensor, "B W"]  # log policy of each own token, nats
    reference: Float[Tensor, "B W"]  # log reference; 0 for a loss that looks at none
    own: Bool[Tensor, "B W"]
    turn_of_token: Int[Tensor, "B W"]  # number of the own turn, from 0
    log_collisions: Float[Tensor, "B W"] | None = None  # only for weighting wpo

    @property
    def logps(self) -> Float[Tensor, " B"]:
        """Log policy of each response, nats."""
        return self.logprobs.sum(-1)

    @property
    def logratio(self) -> Float[Tensor, " B"]:
        """Log policy - log reference of each response, nats; exactly 0 when the two are equal."""
        return (self.logprobs - self.reference).sum(-1)

    @property
    def counts(self) -> Int[Tensor, " B"]:
        """Own tokens of each response."""
        return self.own.sum(-1)

    @property
    def lengths(self) -> Float[Tensor, " B"]:
        """Own tokens of each response, as numbers to divide by."""
        return self.counts.to(self.logprobs.dtype)

    @property
    def turns(self) -> Int[Tensor, " B"]:
        """Own turns of each response."""
        return self.turn_of_token.masked_fill(~self.own, 0).amax(-1) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StepState:
    """What a step knows besides its own pairs: its number, the run's seed, running values."""

    step: int = 0
    seed: int = 0
    delta: float = 0.0  # mean reward of all responses seen before this step, for bco_pair
    average: MarginAverage = field(default_factory=MarginAverage)  # of all margins, for beta_dpo


@dataclass(frozen=True, kw_only=True, slots=True)
class PairInputs:
    """B pairs as a loss sees them."""

    chosen: Side
    rejected: Side
    weights: Float[Tensor, " B"]
    probability: Float[Tensor, " B"]  # that chosen really is the better one
    strength: Float[Tensor, " B"]  # 0 where the rater gave none
    seeds: tuple[int, ...]  # one per pair, of this step
    state: StepState

    @property
    def logratios(self) -> dict[str, Tensor]:
        """Log ratios of both sides under the names that the losses give them."""
        return {
            "chosen_logratio": self.chosen.logratio,
            "rejected_logratio": self.rejected.logratio,
        }

    @property
    def logps(self) -> dict[str, Tensor]:
        """Log-probs of both sides under the policy, by the losses' names."""
        return {"chosen_logps": self.chosen.logps, "rejected_logps": self.rejected.logps}

    @property
    def lengths(self) -> dict[str, Tensor]:
        """Own tokens of both sides, by the losses' names."""
        return {"chosen_lengths": self.chosen.lengths, "rejected_lengths": self.rejected.lengths}

    @property
    def margins(self) -> Float[Tensor, " B"]:
        """Log ratio of chosen - log ratio of rejected, nats."""
        return self.chosen.logratio - self.rejected.logratio


def pair_inputs(
    rows: Sequence[PairRow],
    policy: TokenLogprobs,
    reference: TokenLogprobs | None,
    *,
    numbers: Sequence[int],
    state: StepState,
) -> PairInputs:
    """Return the inputs of the losses for B pairs.

    Args:
        rows: the pairs.
        policy: log-probs of chosen, rejected, chosen, … `[2B W]`; carries the gradient.
        reference: the same under the reference; None for a loss without one.
        numbers: row number of each pair; with the step it makes the seed of its random draws.
        state: the step.
    """
    like = policy.logprobs
    frozen = torch.zeros_like(like) if reference is None else reference.logprobs.to(like.device)
    turns = turn_numbers([s for row in rows for s in row.sequences], width=like.shape[-1])

    def side(place: int) -> Side:
        collisions = policy.log_collisions
        return Side(
            logprobs=like[place::2],
            reference=frozen[place::2],
            own=policy.own[place::2],
            turn_of_token=turns[place::2].to(like.device),
            log_collisions=None if collisions is None else collisions[place::2],
        )

    return PairInputs(
        chosen=side(0),
        rejected=side(1),
        weights=like.new_tensor([row.weight for row in rows]),
        probability=like.new_tensor([row.probability for row in rows]),
        strength=like.new_tensor([row.strength or 0 for row in rows]),
        seeds=tuple(seed_of(state.seed, state.step, number) for number in numbers),
        state=state,
    )


def turn_numbers(sequences: Sequence[TokenSequence], *, width: int) -> Int[Tensor, "B W"]:
    """Return the number of the own turn of each own token: runs of own tokens, from 0."""
    numbers = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        places = np.flatnonzero(np.asarray(sequence.own, dtype=bool))
        places = places[places > 0]  # the first token of a sequence is never scored
        starts = np.diff(places, prepend=places[:1]) > 1
        numbers[row, : len(places)] = torch.from_numpy(np.cumsum(starts))
    return numbers


def seed_of(*parts: int) -> int:
    """Return a seed that is a pure function of the parts, such as run seed, step and row."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
