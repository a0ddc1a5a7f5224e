"""One step's worth of experience: responses of the policy, their rewards, and who thinks what."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from preftune.engine.batches import chunks
from preftune.errors import DataError, HealthError
from preftune.graders.scorer import Scorer
from preftune.inference.rollouts import Rollout, RolloutSource
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.text import visible
from preftune.training.policy_settings import RewardingSettings
from preftune.training.readable import scores_of
from preftune.types import Message, Prompt

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """A prompt to answer."""

    prompt: Prompt
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """P prompts with G responses each; B = P * G of them, group after group."""

    prompts: tuple[Prompt, ...]
    rows: tuple[tuple[TokenSequence, ...], ...]  # P rows of G sequences
    messages: tuple[Message, ...]  # B: the responses as text
    finished: Bool[Tensor, "P G"]
    scores: Float[Tensor, "P G"]  # as the scorer gave them; 0 where it gave none
    scored: Bool[Tensor, "P G"]
    rewards: Float[Tensor, "P G"]  # scores clipped, less the penalty for not ending
    sampled: Float[Tensor, "B T"]  # log-probs as the sampler saw them
    mask: Bool[Tensor, "B T"]  # own tokens from the left

    @property
    def lengths(self) -> Int[Tensor, "P G"]:
        """Tokens of each response."""
        return self.mask.sum(-1).reshape(self.scores.shape)

    def figures(self) -> dict[str, float]:
        """Return what one wants to know of a batch of rollouts; no reward where none was scored."""
        scores = self.scores[self.scored]
        rewards = {}
        if len(scores):
            spread = scores.std(correction=0).item()
            rewards = {"reward": scores.mean().item(), "reward_sd": spread}
        return {
            **rewards,
            "unscored": float((~self.scored).sum()),
            "finished_frac": self.finished.float().mean().item(),
            "length_tokens": self.lengths.float().mean().item(),
            "entropy": -(self.sampled.sum() / self.mask.sum().clamp(min=1)).item(),
        }


def seed_of(seed: int, *parts: object) -> int:
    """Return a seed of 63 bits that depends on all of these and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def experience(
    source: RolloutSource,
    scorer: Scorer,
    chat: Chat,
    batch: Sequence[PromptRow],
    s: RewardingSettings,
    *,
    samples: int,
    seeds: Sequence[int],
) -> Experience:
    """Draw `samples` responses to each prompt, score them, and return all of it.

    Args:
        source: draws.
        scorer: gives rewards.
        chat: turns tokens into text for the scorer.
        batch: the prompts of the step.
        s: clipping and penalty.
        samples: responses per prompt.
        seeds: one per response, group after group.

    Raises:
        HealthError: a score is not a number, or the sampler gave other log-probs than tokens.
    """
    prompts = [row.ids for row in batch for _ in range(samples)]
    drawn = source.draw(prompts, seeds)
    messages = [chat.decode(rollout.response_ids)[0] for rollout in drawn]
    owners = [row.prompt for row in batch for _ in range(samples)]
    found = scored_by(scorer, owners, messages)
    scores = torch.tensor([score or 0.0 for score in found]).reshape(-1, samples)
    scored = torch.tensor([score is not None for score in found]).reshape(-1, samples)
    finished = torch.tensor([rollout.finished for rollout in drawn]).reshape(-1, samples)
    rewards = scores.clamp(-s.reward_clip, s.reward_clip) if s.reward_clip else scores
    sampled, mask = left_aligned(drawn)
    return Experience(
        prompts=tuple(row.prompt for row in batch),
        rows=tuple(map(tuple, chunks([sequence_of(rollout) for rollout in drawn], samples))),
        messages=tuple(messages),
        finished=finished,
        scores=scores,
        scored=scored,
        rewards=rewards - s.missing_eos_penalty * (~finished),
        sampled=sampled,
        mask=mask,
    )


def scored_by(
    scorer: Scorer, prompts: Sequence[Prompt], responses: Sequence[Message]
) -> list[float | None]:
    """Return the score of each response, checked; None also where a reward model can't read it.

    Raises:
        HealthError: a score is NaN or beyond what fp32 holds; names the scorer and the prompt.
        DataError: the scorer gave another number of scores.
    """
    rows = [(prompt, (response,)) for prompt, response in zip(prompts, responses, strict=True)]
    found = scores_of(scorer, rows)
    if len(found) != len(rows):
        raise DataError(
            f"{scorer.name}: {len(found)} scores for {len(rows)} responses. Return one for each."
        )
    for prompt, response, score in zip(prompts, responses, found, strict=True):
        if score is not None and not abs(score) <= LARGEST:
            raise HealthError(
                f"{scorer.name}: the score of a response to prompt {prompt.id} is {score} "
                f"({visible(response.content)[:80]!r}). Mend the scorer: nothing was learnt from "
                "this step."
            )
    return found


def sequence_of(rollout: Rollout) -> TokenSequence:
    """Return prompt and response as one sequence; every token of the response is the policy's."""
    own = (False,) * len(rollout.prompt_ids) + (True,) * len(rollout.response_ids)
    return TokenSequence(prompt_ids=rollout.prompt_ids, response_ids=rollout.response_ids, own=own)


def left_aligned(
    rollouts: Sequence[Rollout],
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return the sampler's log-probs in rows of one width, and which of them are tokens."""
    lengths = torch.tensor([len(rollout.response_ids) for rollout in rollouts])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    values = torch.zeros(mask.shape)
    for row, rollout in enumerate(rollouts):
        if len(rollout.logprobs) != len(rollout.response_ids):
            raise HealthError(
                f"sampler: {len(rollout.logprobs)} log-probs for {len(rollout.response_ids)} "
                "tokens. Use a server that returns one for each token."
            )
        values[row, : lengths[row]] = torch.tensor(rollout.logprobs)
    return values, mask


def no_signal(batches: Sequence[Experience]) -> str:
    """Return why there is nothing to learn from these batches, or an empty text."""
    if not any(bool(batch.scored.any()) for batch in batches):
        return "the scorer gave no score to any response"
    spreads = [
        float(row[kept].max() - row[kept].min())
        for batch in batches
        for row, kept in zip(batch.rewards, batch.scored, strict=True)
        if kept.any()
    ]
    whole = torch.cat([batch.rewards[batch.scored] for batch in batches])
    if float(whole.max() - whole.min()) == 0:
        return f"the reward is {whole[0].item():.4g} for all {len(whole)} responses"
    if batches[0].rewards.shape[1] > 1 and fmean(spreads) == 0:
        return "all responses to one prompt have the same reward, for each prompt"
    return ""
