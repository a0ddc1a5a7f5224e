"""Responses drawn from the policy that is being trained, as tokens, with who drew them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One response of the policy.

    `logprobs` are the sampler's own, in nats, one per token of `response_ids`, at the temperature
    that was drawn with. `version` says which weights drew it: how many steps they had learnt from.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...]
    version: int


class RolloutSource(Protocol):
    """Draws from the newest weights it was given."""

    def publish(self, model: Any, *, version: int) -> None:
        """Take these weights from now on."""

    def draw(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int]) -> list[Rollout]:
        """Return one response per prompt and seed, in the same order."""

    def close(self) -> None:
        """Let go of what was published."""
