"""LoRA adapters of many requests on one copy of the base: each token through its own.

The base's linear layers stay as they are; a hook behind each adds what the adapters of the tokens
in the stream add. Adapters that are more than low-rank products of linear layers are not taken:
their models are loaded whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from preftune.engine.checkpoint import first_not_finite
from preftune.errors import ModelError
from preftune.files import read_json
from preftune.models.load import ADAPTER_CONFIG, refuse_pickles

WEIGHTS = "adapter_model.safetensors"
BEFORE = "base_model.model."  # what PEFT puts before the name of every module
PLAIN_FIELDS: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "alpha_pattern": (None, {}),
    "rank_pattern": (None, {}),
    "init_lora_weights": (None, True, False, "gaussian"),
}
"""What the config of an adapter may say that is a plain low-rank product."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adapter:
    """The matrices of an adapter by module: x becomes x + (x A') B', the scale being in B."""

    folder: Path
    digest: str  # of the folder's files
    parts: dict[str, tuple[Float[Tensor, "r D"], Float[Tensor, "E r"]]]

    @property
    def bytes(self) -> int:
        """Memory of the matrices."""
        return sum(a.nbytes + b.nbytes for a, b in self.parts.values())


class NotPlainError(ModelError):
    """An adapter that is more than low-rank products of linear layers."""


def load_plain_adapter(model: Any, folder: Path, digest: str) -> Adapter:
    """Return the adapter of a PEFT folder for this base; `digest` says which files it was.

    Raises:
        ModelError: not there, a pickle, damaged, or made for another model.
        NotPlainError: DoRA, layers saved whole and the like.
    """
    refuse_pickles(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    for name, plain in PLAIN_FIELDS.items():
        if config.get(name) not in plain:
            raise NotPlainError(f"{folder}: {name} is {config[name]!r}. Load the model whole.")
    rank = float(config["r"])
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    try:
        found = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: {error}. Give a PEFT adapter folder.") from error
    if bad := first_not_finite(found):
        raise ModelError(f"{folder}: {bad} holds NaN or infinity. Use one from before that.")
    first = next(model.parameters())
    named = {name.removeprefix(BEFORE): part for name, part in found.items()}
    modules = dict(model.named_modules())
    parts = {}
    for name in sorted(name for name in named if name.endswith(".lora_A.weight")):
        module = name.removesuffix(".lora_A.weight")
        a, b = named.pop(name), named.pop(f"{module}.lora_B.weight", None)
        if b is None or not _matches(modules.get(module), a, b):
            raise ModelError(f"{folder}: {module} does not fit. Give the adapter's own base.")
        if modules[module] is model.get_output_embeddings():
            raise NotPlainError(f"{folder}: adapts the output layer. Load the model whole.")
        parts[module] = (a.to(first), (b * scale).to(first))
    if named:
        raise NotPlainError(f"{folder}: holds {min(named)}. Load the model whole.")
    return Adapter(folder=folder, digest=digest, parts=parts)


def _matches(module: nn.Module | None, a: Tensor, b: Tensor) -> bool:
    if not isinstance(module, nn.Linear | Conv1D) or a.shape[0] != b.shape[1]:
        return False
    rows, columns = module.weight.shape
    width, height = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
    return a.shape[1] == width and b.shape[0] == height


@dataclass(kw_only=True, slots=True)
class _Use:
    """An adapter and the tokens of the stream that go through it; None: all of them."""

    adapter: Adapter
    tokens: Int[Tensor, " t"] | None


@dataclass(slots=True)
class Adapters:
    """The hooks of a base, and which adapters they add just now."""

    model: Any
    hooked: set[str] = field(default_factory=set)
    uses: list[_Use] = field(default_factory=list)

    @contextmanager
    def used(self, owners: Sequence[Adapter | None]) -> Iterator[None]:
        """Send each token through its adapter inside the block."""
        self.uses = self._uses(owners)
        try:
            yield
        finally:
            self.uses = []

    def _uses(self, owners: Sequence[Adapter | None]) -> list[_Use]:
        adapters = [a for a in dict.fromkeys(owners) if a is not None]
        for adapter in adapters:
            self._hook(adapter)
        if len(adapters) == 1 and None not in owners:
            return [_Use(adapter=adapters[0], tokens=None)]
        device = next(self.model.parameters()).device
        return [
            _Use(
                adapter=adapter,
                tokens=torch.tensor(
                    [i for i, a in enumerate(owners) if a is adapter], device=device
                ),
            )
            for adapter in adapters
        ]

    def _hook(self, adapter: Adapter) -> None:
        for name in adapter.parts.keys() - self.hooked:
            self.model.get_submodule(name).register_forward_hook(self._adding(name))
            self.hooked.add(name)

    def _adding(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """Return a hook that adds to the output of a layer what the adapters in use add to it."""

        def add(_module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            for use in self.uses:
                if name not in use.adapter.parts:
                    continue
                a, b = use.adapter.parts[name]
                x, y = inputs[0].flatten(0, -2), out.view(-1, out.shape[-1])
                if use.tokens is None:
                    y.addmm_(x @ a.T, b.T)
                else:
                    y.index_add_(0, use.tokens, (x[use.tokens] @ a.T) @ b.T)

        return add
