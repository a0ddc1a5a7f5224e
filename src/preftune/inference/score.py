"""Score responses: by a reward model, by their log-probability, by how far a policy has moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.engine.logprobs import token_logprobs
from preftune.engine.modes import evaluating
from preftune.errors import DataError
from preftune.inference.passes import by_length
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.stats.intervals import Interval, wilson
from preftune.types import Message, PreferencePair, Prompt, text_of

BATCH_SIZE, BATCH_TOKENS = 256, 16384  # rows, and tokens with padding, computed at once


def score(
    reward_model: nn.Module,
    chat: Chat,
    rows: Sequence[tuple[Prompt, tuple[Message, ...]]],
    *,
    batch_size: int = BATCH_SIZE,
) -> list[float]:
    """Return the reward of each response to its prompt, in the order given.

    Args:
        reward_model: called with a list of sequences, returns one reward each.
        chat: the tokens and template of the reward model.
        rows: prompts with a response each.
        batch_size: most rows computed at once.

    Raises:
        ModelError: a prompt or response that the template cannot hold.
    """
    sequences = [chat.encode(prompt, response) for prompt, response in rows]
    rewards = [0.0] * len(sequences)
    with evaluating(reward_model), progress("scoring", len(rewards)) as advance:
        for batch in _batches(sequences, batch_size):
            scored = reward_model([sequences[row] for row in batch])
            for row, reward in zip(batch, scored.tolist(), strict=True):
                rewards[row] = reward
            advance(len(batch))
    return rewards


def sequence_logps(
    model: nn.Module, sequences: Sequence[TokenSequence], *, batch_size: int = BATCH_SIZE
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Return the log-probability of each response in nats, and how many own tokens it sums over.

    The sums are taken in fp64 and stay on the CPU.
    """
    logps = torch.zeros(len(sequences), dtype=torch.float64)
    lengths = torch.zeros(len(sequences), dtype=torch.long)
    for batch in _batches(sequences, batch_size):
        with evaluating(model):
            scored = token_logprobs(model, [sequences[row] for row in batch])
        logps[batch] = scored.logprobs.double().sum(-1).cpu()
        lengths[batch] = scored.lengths().cpu()
    return logps, lengths


def sampled_kl(
    policy: nn.Module, reference: nn.Module, sequences: Sequence[TokenSequence]
) -> Float[Tensor, " B"]:
    """Return the k1 estimate of KL(policy : reference) of each response, in nats per response.

    The sum over own tokens of log policy - log reference. One estimate may be negative; its mean
    over responses that were drawn from the policy at temperature 1 is unbiased. Responses from
    anywhere else estimate something else. Equal models give exactly 0.

    Source: Schulman 2020, "Approximating KL divergence", estimator k1.
    """
    return sequence_logps(policy, sequences)[0] - sequence_logps(reference, sequences)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairAccuracy:
    """How often the higher reward is on the chosen side, beside a judge that only looks at length.

    A tie of rewards counts as wrong. The length-only baseline is the better of "longer wins" and
    "shorter wins" on these very pairs, in characters; equal lengths count as wrong.
    """

    pairs: int
    right: int
    ties: int
    longer_right: int
    shorter_right: int

    @property
    def accuracy(self) -> float:
        """Share of pairs with the higher reward on the chosen side."""
        return self.right / self.pairs

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the accuracy; it takes the pairs as independent."""
        return wilson(self.right, self.pairs)

    @property
    def baseline(self) -> str:
        """Which rule on length is right more often."""
        return "longer wins" if self.longer_right >= self.shorter_right else "shorter wins"

    @property
    def baseline_right(self) -> int:
        """How many pairs that rule gets right."""
        return max(self.longer_right, self.shorter_right)


def pair_accuracy(
    pairs: Sequence[PreferencePair], chosen: Sequence[float], rejected: Sequence[float]
) -> PairAccuracy:
    """Return how well these rewards of the chosen and rejected responses agree with the pairs.

    Raises:
        DataError: no pairs.
    """
    if not pairs:
        raise DataError("no pairs. Give a file with at least one.")
    margins = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    extra = [len(text_of(pair.chosen)) - len(text_of(pair.rejected)) for pair in pairs]
    return PairAccuracy(
        pairs=len(pairs),
        right=sum(margin > 0 for margin in margins),
        ties=sum(margin == 0 for margin in margins),
        longer_right=sum(longer > 0 for longer in extra),
        shorter_right=sum(longer < 0 for longer in extra),
    )


def score_pairs(
    reward_model: nn.Module,
    chat: Chat,
    pairs: Sequence[PreferencePair],
    *,
    batch_size: int = BATCH_SIZE,
) -> tuple[list[float], list[float]]:
    """Return the rewards of all chosen and of all rejected responses."""
    rows = [(pair.prompt, pair.chosen) for pair in pairs]
    rows += [(pair.prompt, pair.rejected) for pair in pairs]
    rewards = score(reward_model, chat, rows, batch_size=batch_size)
    return rewards[: len(pairs)], rewards[len(pairs) :]


def _batches(sequences: Sequence[TokenSequence], batch_size: int) -> list[list[int]]:
    lengths = [len(sequence) for sequence in sequences]
    return list(by_length(lengths, batch_size=batch_size, batch_tokens=BATCH_TOKENS))
