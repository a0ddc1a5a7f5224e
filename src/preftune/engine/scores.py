"""Scores of responses by a reward model, their prompts shared like everywhere else."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor, nn

from preftune.engine.core import body_of, packed_hidden, recompute_layers, sees_everything
from preftune.engine.layout import packed
from preftune.engine.modes import evaluating
from preftune.engine.settings import EngineSettings
from preftune.errors import SettingsError
from preftune.models.tokens import TokenSequence

TOLERANCE = 1e-3  # of the largest score: bf16 and a shared prompt round otherwise
_SHARES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def score_rows(reward_model: Any, rows: Sequence[Sequence[TokenSequence]]) -> Float[Tensor, " B"]:
    """Return the score of every response, row after row.

    The first rows of a model are scored both ways; prompts are shared from then on if that gives
    the same. Encoders read both ways at once and never share.

    Args:
        reward_model: a `models.heads.RewardModel`.
        rows: sequences that share a prompt in one row.
    """
    sequences = [sequence for row in rows for sequence in row]
    if reward_model not in _SHARES:
        _SHARES[reward_model] = shares_prompts(reward_model, rows[:2])
    if _SHARES[reward_model] and sees_everything(reward_model, reward_model.backbone, sequences):
        return _shared(reward_model, rows)
    scores: Tensor = reward_model(sequences)
    return scores


def prepare(reward_model: Any, settings: EngineSettings) -> None:
    """Let a reward model compute as the settings of the engine say.

    Raises:
        SettingsError: layers are to be compiled, which only the core of language models does.
    """
    if settings.compile:
        raise SettingsError("compile: reward models go without it. Leave it out.")
    if settings.recompute:
        recompute_layers(reward_model.backbone)
    if settings.engine == "plain":
        _SHARES[reward_model] = False


def shares_prompts(reward_model: Any, rows: Sequence[Sequence[TokenSequence]]) -> bool:
    """Return whether these rows have the same scores when their prompts are shared."""
    sequences = [sequence for row in rows for sequence in row]
    if reward_model.kind == "encoder":
        return False
    with evaluating(reward_model):
        alone = reward_model(sequences)
        if not sees_everything(reward_model, reward_model.backbone, sequences):
            return True  # told apart again for each batch
        try:
            together = _shared(reward_model, rows)
        except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError):
            return False
    largest = alone.abs().max().clamp_min(1.0)
    return bool((alone - together).abs().max() <= TOLERANCE * largest)


def _shared(reward_model: Any, rows: Sequence[Sequence[TokenSequence]]) -> Float[Tensor, " B"]:
    layout = packed(rows).to(reward_model.head.weight.device)
    hidden = packed_hidden(body_of(reward_model.backbone), layout)
    scores: Tensor = reward_model.read(hidden[layout.last])
    return scores
