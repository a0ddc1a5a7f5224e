"""The question every method asks: how likely, per token, are these responses given these prompts?

This is the plain padded forward of a causal language model: every later, faster layout must give
the same numbers, and is checked against this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from preftune.models.tokens import TokenSequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Padded:
    """Sequences side by side, padded on the right; `own` marks tokens that are scored."""

    ids: Int[Tensor, "B T"]
    attention: Bool[Tensor, "B T"]
    own: Bool[Tensor, "B T"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Log-probs in nats of each token given those before it; exactly 0 where `own` is False."""

    logprobs: Float[Tensor, "B T"]
    own: Bool[Tensor, "B T"]

    def sums(self) -> Float[Tensor, " B"]:
        """Return the log-prob of each response, summed over its own tokens."""
        return self.logprobs.sum(-1)

    def lengths(self) -> Int[Tensor, " B"]:
        """Return how many own tokens each response has."""
        return self.own.sum(-1)


def pad(sequences: Sequence[TokenSequence], *, device: torch.device | None = None) -> Padded:
    """Return the sequences padded on the right with id 0, which is attended to by nothing real."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    attention = torch.zeros(len(sequences), longest, dtype=torch.bool)
    own = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        length = len(sequence)
        ids[row, :length] = torch.tensor(sequence.ids)
        attention[row, :length] = True
        own[row, :length] = torch.tensor(sequence.own)
    return Padded(ids=ids.to(device), attention=attention.to(device), own=own.to(device))


def token_logprobs(model: nn.Module, sequences: Sequence[TokenSequence]) -> TokenLogprobs:
    """Return the log-prob of every own token of every sequence, in nats.

    Position t scores token t + 1, so the first token of a sequence is never scored. The softmax
    is taken in fp32 whatever the model computes in.

    Args:
        model: a causal language model of transformers; gradients flow unless switched off.
        sequences: B prompts with their responses.
    """
    batch = pad(sequences, device=next(model.parameters()).device)
    logits = model(
        input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False
    ).logits[:, :-1]
    target, own = batch.ids[:, 1:], batch.own[:, 1:]
    return TokenLogprobs(logprobs=_own_logprobs(logits, target, own), own=own)


def _own_logprobs(
    logits: Float[Tensor, "B T V"], target: Int[Tensor, "B T"], own: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return log softmax at the target ids where `own`, 0 elsewhere; only own rows are computed."""
    scored = logits[own].float()
    picked = scored.gather(-1, target[own].unsqueeze(-1)).squeeze(-1) - scored.logsumexp(-1)
    return torch.zeros(own.shape, dtype=picked.dtype, device=picked.device).masked_scatter(
        own, picked
    )
