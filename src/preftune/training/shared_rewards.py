"""Reward models that live on the policy's own weights: an adapter and a head each, nothing more."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preftune.errors import ModelError
from preftune.graders.scorer import Answer
from preftune.inference.combine import CombineSettings, combination_name
from preftune.inference.reward_scorer import RewardScorer
from preftune.models.chat import load_chat
from preftune.models.heads import RewardModel, load_reward_model
from preftune.models.load import adapter_base, refuse_pickles
from preftune.models.reward_set import RewardMember, RewardSet, base_identity, reward_name

ADAPTER_FILE = "adapter_model.safetensors"


def share_base(folders: Sequence[str], base: str) -> bool:
    """Return whether these reward models are adapters, each of them made for this base."""
    bases = [adapter_base(folder) for folder in folders]
    return bool(bases) and all(
        found is not None and base_identity(found) == base_identity(base) for found in bases
    )


@dataclass(kw_only=True, slots=True)
class SharedRewards:
    """Reward models on the policy's base (a `graders.scorer.Scorer`); they need `attach` first.

    Scores are those that the models give on a base of their own, up to rounding in bf16.
    """

    folders: tuple[str, ...]
    how: CombineSettings
    policy: Any = None
    scorers: list[RewardScorer] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The models by name and hash, and how they combine."""
        names = "+".join(reward_name(Path(folder)) for folder in self.folders)
        return combination_name(names, self.how, of=len(self.folders))

    def attach(self, policy: Any) -> None:
        """Put the reward adapters on the policy's base, beside the policy's own.

        Raises:
            ModelError: an adapter that does not fit this base.
        """
        members = []
        for number, folder in enumerate(self.folders):
            adapter = f"reward{number}"
            add_reward_adapter(policy, Path(folder), adapter)
            body = policy.get_base_model().base_model
            model: RewardModel = load_reward_model(folder, backbone=body).requires_grad_(False)
            members.append(
                RewardMember(
                    name=reward_name(Path(folder)),
                    model=model,
                    chat=load_chat(folder),
                    adapter=adapter,
                )
            )
        self.policy = policy
        self.scorers = [RewardScorer(OnPolicy(members, policy), self.how)]

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return the combined score of each response; never None."""
        return [*self.scorers[0].combine(self.parts(rows))]

    def parts(self, rows: Sequence[Answer]) -> list[list[float]]:
        """Return the scores of each model, model after model; the policy's adapter is on after."""
        active = self.policy.active_adapter
        try:
            return self.scorers[0].parts(rows)
        finally:
            self.policy.set_adapter(active)


class OnPolicy(RewardSet):
    """Reward models that take turns on the policy's base."""

    def __init__(self, members: Sequence[RewardMember], policy: Any) -> None:
        super().__init__(members)
        self.policy = policy

    def on(self, member: RewardMember) -> RewardModel:
        """Return the reward model of a member, its adapter switched on."""
        self.policy.set_adapter(member.adapter, inference_mode=True)
        return member.model


def add_reward_adapter(policy: Any, folder: Path, name: str) -> None:
    """Load a reward model's adapter onto a causal language model under PEFT.

    It was made for the same layers without the head of a language model, so that the names of its
    weights lack one level.

    Raises:
        ModelError: weights that are missing or have no place.
    """
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    refuse_pickles(folder)
    policy.add_adapter(name, PeftConfig.from_pretrained(str(folder)))
    level = policy.get_base_model().base_model_prefix
    weights = {
        key.replace("base_model.model.", f"base_model.model.{level}.", 1): tensor
        for key, tensor in load_file(folder / ADAPTER_FILE).items()
    }
    found = set_peft_model_state_dict(policy, weights, adapter_name=name)
    missing = [key for key in found.missing_keys if f".{name}." in key]
    if missing or found.unexpected_keys:
        what = (missing or found.unexpected_keys)[0]
        raise ModelError(f"{folder}: its adapter does not fit this base: {what}. Train it on it.")
