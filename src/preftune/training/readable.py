"""Responses that are too long for a reward model: they stay unscored, and a run says so early.

A reward model reads a response as tokens of its own, with an end of turn that one cut at
`max_new_tokens` does not have, so that what fits the policy need not fit the reward model.
"""

from collections.abc import Iterator, Sequence

from preftune.errors import ModelError
from preftune.graders.scorer import Answer, Scorer
from preftune.inference.reward_scorer import RewardScorer
from preftune.models.reward_set import RewardMember
from preftune.training.shared_rewards import SharedRewards
from preftune.types import Prompt, assistant

SHORTEST = (assistant("yes"),)


def scores_of(scorer: Scorer, rows: Sequence[Answer]) -> list[float | None]:
    """Return the score of each response; None where it is too long for a reward model.

    Raises:
        ModelError: a response that cannot be scored for another reason.
    """
    try:
        return scorer.score(rows)
    except ModelError:
        fits = readable(scorer, rows)
        if all(fits):
            raise
    short = [row for row, fit in zip(rows, fits, strict=True) if fit]
    found = iter(scorer.score(short) if short else [])
    return [next(found) if fit else None for fit in fits]


def readable(scorer: Scorer, rows: Sequence[Answer]) -> list[bool]:
    """Return which responses all reward models of a scorer can read with their prompt."""
    fits = [True] * len(rows)
    for member in members_of(scorer):
        longest = member.chat.max_length or float("inf")
        sizes = map(len, member.chat.encode_all(rows))
        fits = [fit and size <= longest for fit, size in zip(fits, sizes, strict=True)]
    return fits


def too_tight(
    scorer: Scorer | None, prompts: Sequence[Prompt], *, max_new_tokens: int
) -> Iterator[str]:
    """Yield a warning for each reward model that the longest responses may not fit.

    Args:
        scorer: gives rewards, or gold.
        prompts: of the run.
        max_new_tokens: most tokens of a response, as the policy counts.
    """
    for member in members_of(scorer):
        shortest = member.chat.encode_all([(prompt, SHORTEST) for prompt in prompts])
        longest = member.chat.max_length or float("inf")
        tight = sum(len(sequence) - 1 + max_new_tokens > longest for sequence in shortest)
        if tight:
            yield (
                f"{member.name} reads {longest} tokens: {tight} of {len(prompts)} prompts may not "
                f"fit with a response of max_new_tokens {max_new_tokens}, which then stays "
                "unscored. Lower max_new_tokens, or leave long prompts out."
            )


def members_of(scorer: Scorer | None) -> list[RewardMember]:
    """Return the reward models of a scorer; none of any other kind."""
    scorers = scorer.scorers if isinstance(scorer, SharedRewards) else [scorer]
    found = [one.rewards.members for one in scorers if isinstance(one, RewardScorer)]
    return [member for members in found for member in members]
