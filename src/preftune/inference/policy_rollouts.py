"""Rollouts drawn in this process by the very model that is being trained."""

from collections.abc import Sequence
from typing import Any

from preftune.inference.generate import GenerateSettings, generate
from preftune.inference.rollouts import Rollout


class PolicyRollouts:
    """Draws from a model in memory (a `rollouts.RolloutSource`): its weights are always newest."""

    def __init__(
        self, model: Any, settings: GenerateSettings, *, end_ids: Sequence[int], pad_id: int
    ) -> None:
        self.model, self.settings = model, settings
        self.end_ids, self.pad_id, self.version = tuple(end_ids), pad_id, 0

    def publish(self, model: Any, *, version: int) -> None:
        """Note how many steps the weights have learnt from; they are the same tensors."""
        self.model, self.version = model, version

    def close(self) -> None:
        """Do nothing: the weights are the policy's own."""

    def draw(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int]) -> list[Rollout]:
        """Return one response per prompt and seed; equal prompts are read once."""
        drawn = generate(
            self.model,
            prompts,
            self.settings,
            seeds=seeds,
            end_ids=self.end_ids,
            pad_id=self.pad_id,
        )
        return [
            Rollout(
                prompt_ids=prompt,
                response_ids=reply.ids,
                finished=reply.finished,
                logprobs=reply.sampled_logprobs,
                version=self.version,
            )
            for prompt, reply in zip(prompts, drawn, strict=True)
        ]
