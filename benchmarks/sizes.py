"""How large the models S, M and V are, and what one pair costs them at the least."""

from collections.abc import Sequence

from preftune.engine.layout import triangle
from preftune.models.presets import Preset
from preftune.models.tokens import TokenSequence

LONGEST = 8192  # tokens, of the runs against length

PRESETS = {  # Llama type, tied embeddings in all of them
    "S": Preset(kind="decoder", width=256, layers=6, heads=4, feed_forward=704, max_length=LONGEST),
    "M": Preset(
        kind="decoder", width=768, layers=12, heads=12, feed_forward=1952, max_length=LONGEST
    ),
    "V": Preset(
        kind="decoder", width=512, layers=7, heads=8, feed_forward=1408, max_length=LONGEST
    ),
}
VOCABULARY = {"S": 4096, "M": 32_000, "V": 151_936}


def parameters(name: str) -> int:
    """Return how many weights a model has: S 5.87M, M 106.9M, V 100.3M."""
    preset = PRESETS[name]
    return preset.body_parameters + VOCABULARY[name] * preset.width


def pair_gflop(
    preset: Preset, *, vocabulary: int, prompt: int, chosen: int, rejected: int
) -> float:
    """Return the 10^9 operations of the matrix products of one DPO pair, forward and backward.

    The prompt goes through once, the head sees response tokens only, the reference is known. A
    weight costs 2 operations a token forward and 4 backward; a query that sees a key costs
    4 * width forward and twice that backward in each layer.

    Args:
        preset: width and layers.
        vocabulary: rows of the head.
        prompt: tokens of the prompt.
        chosen: tokens of the chosen response.
        rejected: tokens of the rejected one.
    """
    responses = chosen + rejected
    body = 6 * preset.body_parameters * (prompt + responses)
    head = 6 * vocabulary * preset.width * responses
    seen = (
        triangle(prompt) + responses * prompt + triangle(chosen) + triangle(rejected)
    )  # (query, key) of one layer
    return (body + head + 12 * preset.width * preset.layers * seen) / 1e9


def mean_gflop(name: str, pairs: Sequence[tuple[TokenSequence, TokenSequence]]) -> float:
    """Return the mean of `pair_gflop` over pairs of a chosen and a rejected sequence."""
    costs = [
        pair_gflop(
            PRESETS[name],
            vocabulary=VOCABULARY[name],
            prompt=len(chosen.prompt_ids),
            chosen=len(chosen.response_ids),
            rejected=len(rejected.response_ids),
        )
        for chosen, rejected in pairs
    ]
    return sum(costs) / len(costs)
