"""AdamW, its schedule and clipping; its state is named by parameter, as safetensors need it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from preftune.engine.settings import OptimizerSettings, Schedule

Weights = Mapping[str, nn.Parameter]  # fp32 masters by name


def adamw(weights: Weights, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW over the trained weights; vectors (norms, biases) are not decayed."""
    matrices = [p for p in weights.values() if p.ndim >= 2]
    vectors = [p for p in weights.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=settings.lr,
        betas=(settings.adam_beta1, settings.adam_beta2),
        fused=True,
    )


def lr_factor(step: int, *, steps: int, warmup_frac: float, schedule: Schedule) -> float:
    """Return what the peak learning rate is multiplied by at a step, 0..1; a pure function.

    A linear warm-up over the first `warmup_frac` of the steps, then constant, or down to 0 along
    a line or half a cosine.
    """
    warmup = round(warmup_frac * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def optimizer_step(
    weights: Weights, optimizer: torch.optim.Optimizer, *, lr: float, max_grad_norm: float
) -> float:
    """Clip, step, clear the gradients; return the gradient norm before clipping.

    Args:
        weights: hold the gradients of the whole optimiser step.
        optimizer: steps over the same parameters.
        lr: learning rate of this step.
        max_grad_norm: gradients are scaled down to this L2 norm; 0 leaves them as they are.
    """
    limit = max_grad_norm or math.inf
    norm = nn.utils.clip_grad_norm_(weights.values(), limit)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def optimizer_tensors(weights: Weights, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of the optimiser as tensors named `parameter/slot`."""
    return {
        f"{name}/{slot}": value
        for name, p in weights.items()
        for slot, value in optimizer.state.get(p, {}).items()
    }


def load_optimizer_tensors(
    weights: Weights, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned."""
    for key, value in tensors.items():
        name, slot = key.rsplit("/", 1)
        optimizer.state[weights[name]][slot] = value.clone()
