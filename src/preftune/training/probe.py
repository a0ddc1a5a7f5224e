"""Fresh samples of the policy while it trains: sampled KL to its reference, and length drift."""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import nn

from preftune.inference.generate import GenerateSettings, generate
from preftune.inference.score import sampled_kl, sequence_logps
from preftune.models.adapters import adapter_off
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.training.settings import ProbeSettings
from preftune.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a probe needs; `reference` is None when it is the policy with its adapter off."""

    settings: ProbeSettings
    chat: Chat
    prompts: tuple[tuple[int, ...], ...]
    reference: Any
    reference_length: float  # tokens, mean of the reference's own replies to the same prompts
    seed: int

    @classmethod
    def of(
        cls,
        policy: Any,
        chat: Chat,
        prompts: Iterable[Prompt],
        settings: ProbeSettings,
        *,
        seed: int,
        keep_reference: bool,
    ) -> "Probe":
        """Return a probe of the policy as it starts, on distinct prompts chosen by the seed.

        Args:
            policy: the model before training.
            chat: its tokenizer and template.
            prompts: where to choose from.
            settings: how often, how many, how long.
            seed: chooses prompts and replies.
            keep_reference: keep a frozen copy; not needed when an adapter can be switched off.
        """
        if not settings.probe_every:
            return cls(
                settings=settings,
                chat=chat,
                prompts=(),
                reference=None,
                reference_length=1.0,
                seed=seed,
            )
        drawn = draw(prompts, settings.probe_prompts, seed=seed)
        chosen = tuple(chat.prompt_ids(prompt) for prompt in drawn)
        reference = copy.deepcopy(policy).eval().requires_grad_(False) if keep_reference else None
        lengths = [len(ids) for ids in _replies(policy, chat, chosen, settings, seed=seed)]
        return cls(
            settings=settings,
            chat=chat,
            prompts=chosen,
            reference=reference,
            reference_length=fmean(lengths),
            seed=seed,
        )

    def due(self, step: int) -> bool:
        """Whether a probe follows this step."""
        every = self.settings.probe_every
        return bool(every) and (step + 1) % every == 0

    def measure(self, policy: nn.Module, *, step: int) -> dict[str, float]:
        """Return sampled KL (nats a reply), mean length (tokens), its ratio to the start's."""
        replies = _replies(
            policy, self.chat, self.prompts, self.settings, seed=self.seed + step + 1
        )
        sequences = [
            TokenSequence(
                prompt_ids=prompt,
                response_ids=reply,
                own=(False,) * len(prompt) + (True,) * len(reply),
            )
            for prompt, reply in zip(self.prompts, replies, strict=True)
        ]
        if self.reference is not None:
            kl = sampled_kl(policy, self.reference, sequences)
        else:
            kl = sequence_logps(policy, sequences)[0]
            with adapter_off(policy):
                kl -= sequence_logps(policy, sequences)[0]
        length = fmean(len(reply) for reply in replies)
        return {
            "kl": kl.mean().item(),
            "length_tokens": length,
            "length_ratio": length / self.reference_length,
        }


def draw(prompts: Iterable[Prompt], count: int, *, seed: int) -> list[Prompt]:
    """Return distinct prompts chosen by the seed, whatever their order; few are held at a time."""
    best: dict[bytes, Prompt] = {}
    for prompt in prompts:
        best[hashlib.sha256(f"{seed}/{prompt.id}".encode()).digest()] = prompt
        if len(best) > 2 * count:
            best = {place: best[place] for place in sorted(best)[:count]}
    return [best[place] for place in sorted(best)[:count]]


def _replies(
    policy: Any,
    chat: Chat,
    prompts: Sequence[tuple[int, ...]],
    settings: ProbeSettings,
    *,
    seed: int,
) -> list[tuple[int, ...]]:
    drawn = generate(
        policy,
        prompts,
        GenerateSettings(max_new_tokens=settings.probe_tokens, temperature=1.0),
        seeds=[seed * 1_000_003 + place for place in range(len(prompts))],
        end_ids=chat.end_ids,
        pad_id=chat.pad_id,
    )
    return [reply.ids for reply in drawn]
