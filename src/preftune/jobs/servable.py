"""Models that a job leaves: each folder answers requests by itself, or as an adapter on its base.

A job that starts from an adapter trains another one on top of it. What is published then is one
adapter on the base that holds both: for each layer the two low-rank updates stand beside each
other, W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]. Adapters that cannot be joined so
(DoRA, biases, whole layers) are published as a whole model.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.engine.checkpoint import MANIFEST, verify, write_manifest
from preftune.files import atomic_folder, read_json, sha256_of, write_json
from preftune.jobs.clone import MODELS, START, link
from preftune.models.adapters import merge_adapter
from preftune.models.load import ADAPTER_CONFIG, adapter_base

WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
PLAIN = {"bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}}
Save = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a job starts from."""

    model: str  # as the server names its folder: a model, or an adapter
    base: str  # folder of the base

    @property
    def adapted(self) -> bool:
        """Whether it is an adapter on the base."""
        return adapter_base(self.model) is not None

    def folder(self) -> str:
        """Return a whole model to train on; one is written where the start is an adapter."""
        if not self.adapted:
            return self.model
        if verify(START) is not None:
            merge_adapter(self.base, self.model, START)
            write_manifest(START)
        return str(START)

    def publish(self, save: Save, step: int) -> Path:
        """Write the model as it is now, whole or not at all, and return its folder.

        Args:
            save: writes the model, or its adapter on what it was trained on.
            step: steps it has learnt from.
        """
        folder = MODELS / f"step-{step:06d}"
        with atomic_folder(folder) as writing:
            save(writing)
            if self.model != self.base and adapter_base(writing) is not None:
                self._complete(writing)
            write_manifest(writing)
        return folder

    def publish_again(self, final: Path, step: int) -> Path:
        """Publish a model folder that is whole already, such as a run's own last one."""

        def take(writing: Path) -> None:
            for file in final.iterdir():
                if file.name != MANIFEST:
                    link(file, writing / file.name)

        return self.publish(take, step)

    def _complete(self, writing: Path) -> None:
        """Turn an adapter on the start into one on the base, or into a whole model."""
        both = joined(Path(self.model), writing) if self.adapted else None
        if both is not None:
            tensors, config = both
            (writing / WEIGHTS).unlink()  # it may be linked
            save_file(tensors, writing / WEIGHTS)
            write_json(writing / ADAPTER_CONFIG, config | {"base_model_name_or_path": self.base})
            return
        whole = merge_adapter(self.folder(), writing, Path("whole"))
        for file in writing.iterdir():
            file.unlink()
        for file in whole.iterdir():
            shutil.move(file, writing / file.name)
        whole.rmdir()


def manifest_hash(folder: Path) -> str:
    """Return the SHA-256 of a folder's manifest: the folder's own fingerprint."""
    return sha256_of(folder / MANIFEST)


def joined(first: Path, second: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the config of one adapter that does what both do, one on the other.

    None when one of them is more than low-rank updates of linear layers.
    """
    parts = [_updates(folder) for folder in (first, second)]
    if parts[0] is None or parts[1] is None:
        return None
    one, other = parts[0], parts[1]
    ranks = [max(a.shape[0] for a, _ in part.values()) for part in (one, other)]
    tensors: dict[str, Tensor] = {}
    for layer in sorted(one.keys() | other.keys()):
        downs, ups = [], []
        for part, rank in zip((one, other), ranks, strict=True):
            a, b = part.get(layer) or _nothing((one.get(layer) or other[layer]), rank)
            downs.append(_to_rank(a, rank, dim=0))
            ups.append(_to_rank(b, rank, dim=1))
        tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.cat(downs).contiguous()
        tensors[f"base_model.model.{layer}.lora_B.weight"] = torch.cat(ups, dim=1).contiguous()
    config = read_json(second / ADAPTER_CONFIG)
    layers = sorted(one.keys() | other.keys())
    changed = {"r": sum(ranks), "lora_alpha": sum(ranks), "use_rslora": False}
    return tensors, config | changed | {"target_modules": layers, "alpha_pattern": {}}


def _updates(folder: Path) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Return A and B of each layer, B scaled as the adapter scales it; None where there is more."""
    config = read_json(folder / ADAPTER_CONFIG)
    if any((config.get(name) or plain) != plain for name, plain in PLAIN.items()):
        return None
    if config.get("alpha_pattern"):
        return None
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        matched = KEY.fullmatch(name)
        if matched is None:
            return None
        found.setdefault(matched[1], {})[matched[2]] = tensor.float()
    return {layer: (pair["A"], scale * pair["B"]) for layer, pair in found.items()}


def _nothing(like: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Return an update of nothing for a layer of the same shape."""
    return torch.zeros(rank, like[0].shape[1]), torch.zeros(like[1].shape[0], rank)


def _to_rank(matrix: Tensor, rank: int, *, dim: int) -> Tensor:
    """Return a matrix with zeros behind its last row or column, so that it has this many."""
    missing = rank - matrix.shape[dim]
    if not missing:
        return matrix
    shape = list(matrix.shape)
    shape[dim] = missing
    return torch.cat([matrix, matrix.new_zeros(shape)], dim)
