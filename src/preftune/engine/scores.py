"""Scores of responses by a reward model, its prompts shared like everywhere else."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from preftune.engine.core import packed_hidden
from preftune.engine.layout import packed
from preftune.models.tokens import TokenSequence


def score_rows(
    reward_model: Any, rows: Sequence[Sequence[TokenSequence]], *, shared: bool
) -> Float[Tensor, " B"]:
    """Return the score of every response, row after row.

    Args:
        reward_model: a `models.heads.RewardModel`.
        rows: sequences that share a prompt in one row.
        shared: let the sequences of a row share their prefix; `shares_prompts` says whether the
            model can. Else every sequence is padded to the longest.
    """
    if not shared:
        scores: Tensor = reward_model([sequence for row in rows for sequence in row])
        return scores
    layout = packed(rows).to(reward_model.head.weight.device)
    read: Tensor = reward_model.read(packed_hidden(reward_model.backbone, layout)[layout.last])
    return read
