"""fp32 master weights with a bf16 copy that computes, where the processor is fast in bf16."""

from typing import Any

import torch
from torch import Tensor, nn

from preftune.engine.settings import Precision
from preftune.errors import SettingsError

SMALL = 5_000_000  # parameters below which bf16 gains nothing on a CPU


def resolve(precision: Precision, model: nn.Module) -> torch.dtype:
    """Return what to compute in: `auto` is bf16 where the hardware multiplies it faster.

    Raises:
        SettingsError: bf16 was asked for on a GPU that has none.
    """
    device = next(model.parameters()).device
    if precision == "fp32":
        return torch.float32
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        if precision == "bf16":
            raise SettingsError("precision: this GPU has no bf16. Use --precision fp32.")
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    size = sum(p.numel() for p in model.parameters())
    return torch.bfloat16 if fast_bf16_on_cpu() and size >= SMALL else torch.float32


def fast_bf16_on_cpu() -> bool:
    """Return whether this processor has matrix tiles for bf16 (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


class Masters:
    """The trained weights in fp32; the model's own parameters are a copy in the compute dtype.

    In fp32 the two are the same tensors. In bf16 each gradient is added to its master's fp32
    gradient as soon as it is complete and freed, so that micro-batches add up in fp32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if dtype == torch.float32:
            model.float()
            self.weights: dict[str, nn.Parameter] = trained
            return
        self.weights = {
            name: nn.Parameter(p.detach().float().clone()) for name, p in trained.items()
        }
        model.to(dtype)
        self._hooks = [
            p.register_post_accumulate_grad_hook(_give_to(self.weights[name]))
            for name, p in trained.items()
        ]

    @torch.no_grad()
    def publish(self) -> None:
        """Write the masters into the model that computes."""
        if self.dtype == torch.float32:
            return
        parameters = dict(self.model.named_parameters())
        for name, master in self.weights.items():
            parameters[name].copy_(master)

    @torch.no_grad()
    def to_full_precision(self) -> None:
        """Make the model itself fp32 with the masters' values, to be saved."""
        if self.dtype == torch.float32:
            return
        for hook in self._hooks:
            hook.remove()
        self.model.float()
        self.dtype = torch.float32
        parameters = dict(self.model.named_parameters())
        for name, master in self.weights.items():
            parameters[name].copy_(master)


def _give_to(master: nn.Parameter) -> Any:
    def give(computed: Tensor) -> None:
        if computed.grad is None:
            return
        if master.grad is None:
            master.grad = computed.grad.float()
        else:
            master.grad.add_(computed.grad)
        computed.grad = None

    return give
