"""Several reward models in memory: those that are adapters of one base share one copy of it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from preftune.errors import ModelError
from preftune.files import sha256_of
from preftune.models.adapters import load_adapters
from preftune.models.chat import Chat, load_chat
from preftune.models.heads import RewardModel, is_reward_model, load_reward_model
from preftune.models.load import adapter_base, load_backbone

MB = 1 << 20
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja")  # all that a score depends on


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardMember:
    """One reward model of a set.

    `name` is its folder's with 12 digits of a hash over its files and its base's, `tone@3f2a…`:
    equal names, equal scores.
    """

    name: str
    model: RewardModel
    chat: Chat
    adapter: str = ""  # its name on a backbone that others use too; empty: a backbone of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightCopy:
    """Weights that exist once in memory."""

    what: str
    parameters: int
    bytes: int

    def __str__(self) -> str:
        """Return such as `base of 2: 1,234 parameters, 4.9 MB`."""
        return f"{self.what}: {self.parameters:,} parameters, {self.bytes / MB:.1f} MB"


class RewardSet:
    """Reward models that score the same responses."""

    def __init__(self, members: Sequence[RewardMember]) -> None:
        self.members = tuple(members)

    def on(self, member: RewardMember) -> RewardModel:
        """Return the reward model of a member, its adapter switched on.

        The model is this member's until `on` is called for another.
        """
        if member.adapter:
            member.model.backbone.set_adapter(member.adapter, inference_mode=True)
        return member.model

    def to(self, device: str) -> None:
        """Move all weights to a device."""
        for member in self.members:
            member.model.to(device)

    def describe(self) -> list[WeightCopy]:
        """Return every copy of weights that is in memory, those of one backbone once."""
        copies: dict[int, WeightCopy] = {}
        for member in self.members:
            backbone = member.model.backbone
            users = [m.name for m in self.members if m.model.backbone is backbone]
            what = f"backbone of {', '.join(users)}"
            copies.setdefault(id(backbone), _copy(what, _without_adapters(backbone)))
        own = [_copy(f"adapter and head of {m.name}", _own(m)) for m in self.members]
        return [*copies.values(), *own]

    @property
    def bytes(self) -> int:
        """All weights in memory, in bytes."""
        return sum(copy.bytes for copy in self.describe())


def load_reward_set(folders: Sequence[Path | str]) -> RewardSet:
    """Return the reward models of these folders, in their order.

    Adapters of one base share one copy of it; every other model stands by itself. Scores are those
    that `load_reward_model` gives, to the last bit.

    Raises:
        ModelError: none given, one given twice, or a folder that holds no reward model.
    """
    paths = reward_folders(folders)
    shared: dict[str, dict[str, Path]] = defaultdict(dict)  # of each base: adapters by name
    for number, path in enumerate(paths):
        if (base := adapter_base(path)) is not None:
            shared[base_identity(base)][f"reward{number}"] = path
    backbones = {base: load_adapters(load_backbone(base), named) for base, named in shared.items()}
    return RewardSet(
        [_member(path, f"reward{number}", backbones) for number, path in enumerate(paths)]
    )


def reward_folders(folders: Sequence[Path | str]) -> list[Path]:
    """Return the folders after checking that each holds a reward model of its own.

    Raises:
        ModelError: none given, one given twice, or a folder that holds no reward model.
    """
    paths = [Path(folder) for folder in folders]
    real = [path.resolve() for path in paths]
    if not paths:
        raise ModelError("reward models: none given. Give one folder or more.")
    for path in paths:
        if real.count(path.resolve()) > 1:
            raise ModelError(f"{path}: given twice, it would only count twice. Give it once.")
        if not is_reward_model(path):
            raise ModelError(f"{path}: not a reward model. Train one, or give its folder.")
    return paths


def reward_name(path: Path) -> str:
    """Return the folder's name with 12 digits of a hash over its files and its base's."""
    return f"{short_name(path)}@{_hash_of(path, adapter_base(path))[:12]}"


def _member(path: Path, adapter: str, backbones: Mapping[str, Any]) -> RewardMember:
    base = adapter_base(path)
    backbone = None if base is None else backbones[base_identity(base)]
    return RewardMember(
        name=reward_name(path),
        model=load_reward_model(path, backbone=backbone).requires_grad_(False),
        chat=load_chat(path),
        adapter="" if base is None else adapter,
    )


def base_identity(base: str) -> str:
    """Return one name for one base, however it is written."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def short_name(path: Path) -> str:
    """Return the folder's name; of a run's `final`, the run's."""
    whole = path.resolve()
    return whole.parent.name if whole.name == "final" else whole.name


def _hash_of(path: Path, base: str | None) -> str:
    """Return a SHA-256 over the files of a model and of its base; of a hub id, its name."""
    digest = hashlib.sha256()
    for folder in (path, *([Path(base)] if base else [])):
        digest.update(b"|" if folder.is_dir() else f"|{folder}|".encode())
        for file in sorted(file for pattern in MODEL_FILES for file in folder.glob(pattern)):
            if file.name != "MANIFEST.json":  # hashes of these same files, and when they were made
                digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _own(member: RewardMember) -> Iterator[Tensor]:
    """Yield the weights that no other member uses, the backbone's own left out."""
    for name, weight in member.model.backbone.named_parameters():
        if member.adapter and member.adapter in name.split("."):
            yield weight
    yield from member.model.head.parameters()


def _without_adapters(backbone: Any) -> Iterator[Tensor]:
    for name, weight in backbone.named_parameters():
        if not any(part.startswith("lora_") for part in name.split(".")):
            yield weight


def _copy(what: str, weights: Iterator[Tensor]) -> WeightCopy:
    held = list(weights)
    return WeightCopy(
        what=what,
        parameters=sum(weight.numel() for weight in held),
        bytes=sum(weight.numel() * weight.element_size() for weight in held),
    )
