"""Linear maps of one input as one multiplication, in the order of memory that MKL wants.

A step of generation multiplies a few rows by every weight of the model once. A weight as PyTorch
keeps it is rearranged, or read badly, each time; here that is done once for many steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOST_BYTES = 1 << 30  # of a copy of all weights
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Packed:
    """Linear maps side by side, for one number of tokens."""

    def __init__(self, modules: Sequence[Any], tokens: int) -> None:
        """Copy the weights of modules that `can_pack` said yes to."""
        weight = torch.cat([weight_of(module) for module in modules])
        self.tokens = tokens
        self.packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, tokens)
        self.shape = weight.new_empty(1, 1).expand(weight.shape)  # read for its shape only
        self.bias: Tensor | None = None
        if any(module.bias is not None for module in modules):
            zeros = weight.new_zeros
            self.bias = torch.cat(
                [zeros(m.out_features) if m.bias is None else m.bias for m in modules]
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return `[R T E]` of `[R T D]`; R * T are the tokens it was made for."""
        arguments = (self.packed, self.shape, self.bias, self.tokens)
        found: Tensor = torch.ops.mkl._mkl_linear(x, *arguments)
        return found


def can_pack(modules: Sequence[nn.Module], tokens: int) -> bool:
    """Return whether all maps have weights that MKL can take, and whether it is worth it.

    A single token reads weights as fast in any order. What is more than a linear map with LoRA
    adapters, or has hooks, is not packed.
    """
    has_it = torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")
    if tokens == 1 or not has_it:
        return False
    bases = [_base(module) for module in modules]
    weights = [base.weight for base in bases if base is not None]
    fit = all(w.dtype == torch.float32 and w.device.type == "cpu" for w in weights)
    held_bytes = sum(w.numel() * w.element_size() for w in weights)
    return fit and len(weights) == len(modules) and held_bytes <= MOST_BYTES


def weight_of(module: Any) -> Tensor:
    """Return the weight `[E D]` of a linear map with that of its LoRA adapters added."""
    if type(module) is nn.Linear:
        return module.weight
    weight: Tensor = module.base_layer.weight
    if module.disable_adapters or module.merged:
        return weight
    added: list[Tensor] = [module.get_delta_weight(name) for name in _active(module)]
    return sum(added, start=weight)


def _base(module: Any) -> nn.Linear | None:
    """Return a linear map without its adapters, None for anything more than that."""
    if any(getattr(module, name) for name in HOOKS):
        return None
    if type(module) is nn.Linear:
        return module
    if not hasattr(module, "lora_A"):
        return None
    from peft.tuners.lora import Linear as LoraLinear

    if type(module) is not LoraLinear:
        return None
    more = any(module.lora_variant.get(name) or module.lora_bias[name] for name in _active(module))
    return None if more else _base(module.base_layer)


def _active(module: Any) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]
