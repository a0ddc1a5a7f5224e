"""The question every method asks: how likely, per token, are these responses given these prompts?

This is the plain forward of a causal language model: padded rows, the model's own attention and
its own logits. `core.py` answers the same question faster and is checked against this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from preftune.engine.layout import padded
from preftune.models.tokens import TokenSequence


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Log-probs in nats of the own tokens of B sequences, each given all tokens before it.

    Own tokens stand from the left, in order; behind them `own` is False and values are exactly 0.
    """

    logprobs: Float[Tensor, "B W"]
    own: Bool[Tensor, "B W"]
    log_collisions: Float[Tensor, "B W"] | None = None  # log sum_v p_v^2; only when asked for

    def sums(self) -> Float[Tensor, " B"]:
        """Return the log-prob of each response, summed over its own tokens."""
        return self.logprobs.sum(-1)

    def lengths(self) -> Int[Tensor, " B"]:
        """Return how many own tokens each response has."""
        return self.own.sum(-1)


def token_logprobs(
    model: nn.Module, sequences: Sequence[TokenSequence], *, temperature: float = 1.0
) -> TokenLogprobs:
    """Return the log-prob of every own token of every sequence, in nats.

    Position t scores token t + 1, so the first token of a sequence is never scored. The softmax
    is taken in fp32 whatever the model computes in.

    Args:
        model: a causal language model of transformers; gradients flow unless switched off.
        sequences: B prompts with their responses.
        temperature: logits are divided by it, > 0.
    """
    layout = padded([[sequence] for sequence in sequences]).to(next(model.parameters()).device)
    logits = model(
        input_ids=layout.ids, attention_mask=layout.mask.long(), use_cache=False
    ).logits.flatten(0, 1)
    scored = logits[layout.scored].float() / temperature
    picked = scored.gather(-1, layout.targets[:, None]).squeeze(-1) - scored.logsumexp(-1)
    empty = torch.zeros(layout.own.shape, dtype=picked.dtype, device=picked.device)
    return TokenLogprobs(logprobs=empty.masked_scatter(layout.own, picked), own=layout.own)
