"""fp32 master weights with a bf16 copy that computes, where the processor is fast in bf16."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from preftune.engine.settings import Precision
from preftune.errors import SettingsError
from preftune.models.quantised import compute_in

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

    def __init__(self, model: nn.Module, precision: Precision = "fp32") -> None:
        self.model, self.dtype = model, resolve(precision, model)
        compute_in(model, self.dtype)
        trained = trainable(model)
        if self.dtype == torch.float32:
            model.float()
            self.weights = trained
            return
        self.weights = {n: nn.Parameter(p.detach().float().clone()) for n, p in trained.items()}
        for parameter in numbers(model):  # buffers, such as a reward model's mean, stay fp32
            parameter.data = parameter.data.to(self.dtype)
        self._hooks = [
            p.register_post_accumulate_grad_hook(_give_to(self.weights[name]))
            for name, p in trained.items()
        ]

    def publish(self) -> None:
        """Write the masters into the model that computes; after every change of them."""
        if self.dtype != torch.float32:
            _copy(self.weights, self.model)

    def finish(self) -> nn.Module:
        """Return the model with its trained weights in full precision, to be saved."""
        if self.dtype != torch.float32:
            for hook in self._hooks:
                hook.remove()
            for parameter in numbers(self.model):
                parameter.data = parameter.data.float()
            compute_in(self.model, torch.float32)
            _copy(self.weights, self.model)
            self.dtype = torch.float32
            self.weights = trainable(self.model)
        return self.model


def numbers(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are plain numbers: all but weights packed in 4 bits."""
    return [parameter for parameter in model.parameters() if parameter.is_floating_point()]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name; a tied one appears once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    for name, master in weights.items():
        parameters[name].copy_(master)


def _give_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    def give(computed: Tensor) -> None:
        if computed.grad is None:
            return
        if master.grad is None:
            master.grad = computed.grad.float()
        else:
            master.grad.add_(computed.grad)
        computed.grad = None

    return give
