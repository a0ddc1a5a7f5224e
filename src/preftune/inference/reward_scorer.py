"""Reward models as a scorer: one or several, their scores made one."""

from collections.abc import Sequence
from pathlib import Path

import torch

from preftune.errors import ModelError
from preftune.graders.scorer import Answer
from preftune.inference.combine import CombineSettings, combination_name, combined
from preftune.inference.score import BATCH_SIZE, score
from preftune.models.reward_set import RewardSet, load_reward_set


class RewardScorer:
    """Scores responses by one reward model or several (a `graders.scorer.Scorer`).

    Each model reads the text through its own tokenizer and template.

    Attributes:
        rewards: the reward models.
        how: how their scores become one.
        clipped: how many scores of single models were clipped so far.
    """

    def __init__(
        self,
        rewards: RewardSet,
        how: CombineSettings | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.rewards, self.how = rewards, how or CombineSettings()
        self.batch_size, self.clipped = batch_size, 0
        self.how.check_models(len(rewards.members))
        for member in rewards.members:
            if (len(rewards.members) > 1 or self.how.clip_sd) and not member.model.normalised:
                raise ModelError(
                    f"{member.name}: its scores were never normalised, so they cannot be combined "
                    "or clipped. Run: preftune reward normalise"
                )

    @property
    def name(self) -> str:
        """The models by name and hash, and the combination: equal names, equal scores."""
        names = "+".join(member.name for member in self.rewards.members)
        return combination_name(names, self.how, of=len(self.rewards.members))

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return the combined score of each response; never None.

        Raises:
            HealthError: a score is NaN or infinite; names the row and the model.
            ModelError: a row that the template or the length of a model cannot hold.
        """
        return [*self.combine(self.parts(rows))]

    def parts(self, rows: Sequence[Answer]) -> list[list[float]]:
        """Return the scores of each model, in the order of the models: not clipped, not combined.

        Raises:
            HealthError: as `score`.
            ModelError: as `score`.
        """
        return [
            score(self.rewards.on(member), member.chat, rows, batch_size=self.batch_size)
            for member in self.rewards.members
        ]

    def combine(self, parts: Sequence[Sequence[float]]) -> list[float]:
        """Return what `score` makes of the scores of each model."""
        scores = torch.tensor(parts, dtype=torch.float64)
        if self.how.clip_sd:
            self.clipped += int((scores.abs() > self.how.clip_sd).sum())
        return [float(one) for one in combined(scores, self.how).tolist()]


def load_scorer(
    folders: Sequence[Path | str],
    how: CombineSettings | None = None,
    *,
    batch_size: int = BATCH_SIZE,
) -> RewardScorer:
    """Return a scorer of the reward models in these folders, on the GPU where there is one.

    Args:
        folders: reward models, in the order of weights and thresholds.
        how: how their scores become one; None: the mean, of one model its score.
        batch_size: most responses computed at once.

    Raises:
        ModelError: as `load_reward_set`, or scores that must be in sd and were never normalised.
        SettingsError: a combination that does not fit this many models.
    """
    how = how or CombineSettings()
    how.check_models(len(folders))
    rewards = load_reward_set(folders)
    if torch.cuda.is_available():
        rewards.to("cuda")
    return RewardScorer(rewards, how, batch_size=batch_size)
