"""AdamW, its schedule and clipping; its state is named by parameter, as safetensors need it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from preftune.engine.settings import OptimizerSettings, Schedule

Weights = Mapping[str, nn.Parameter]  # fp32 masters by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Weights with a mark in their name, with a learning rate and a gradient norm of their own."""

    name: str = ""  # how the logged norm is called: `grad_norm`, or `<name>_grad_norm`
    mark: str = ""  # stands in the names of its weights; a weight belongs to the first part it fits
    lr_factor: float = 1.0  # times the learning rate of the settings


WHOLE = (Part(),)


def adamw(
    weights: Weights, settings: OptimizerSettings, parts: Sequence[Part] = WHOLE
) -> torch.optim.AdamW:
    """Return AdamW over the trained weights; vectors (norms, biases) are not decayed."""
    groups = []
    for part, own in parted(weights, parts):
        inside = list(own.values())
        matrices = [p for p in inside if p.ndim >= 2]
        vectors = [p for p in inside if p.ndim < 2]
        groups += [
            {"params": matrices, "weight_decay": settings.weight_decay, "factor": part.lr_factor},
            {"params": vectors, "weight_decay": 0.0, "factor": part.lr_factor},
        ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=settings.lr,
        betas=(settings.adam_beta1, settings.adam_beta2),
        fused=True,
    )


def parted(weights: Weights, parts: Sequence[Part]) -> Iterator[tuple[Part, Weights]]:
    """Yield each part with its weights; what fits none is not trained."""
    left = dict(weights)
    for part in parts:
        own = {name: p for name, p in left.items() if part.mark in name}
        left = {name: p for name, p in left.items() if name not in own}
        yield part, own


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
    weights: Weights,
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    max_grad_norm: float,
    parts: Sequence[Part] = WHOLE,
) -> dict[str, float]:
    """Clip, step, clear the gradients; return the gradient norm of each part before clipping.

    Where a norm is not finite the weights are left as they are.

    Args:
        weights: hold the gradients of the whole optimiser step.
        optimizer: steps over the same parameters.
        lr: learning rate of this step.
        max_grad_norm: gradients are scaled down to this L2 norm; 0 leaves them as they are.
        parts: what is clipped apart, with a learning rate of its own.
    """
    limit = max_grad_norm or math.inf
    norms = {}
    for part, own in parted(weights, parts):
        norm = nn.utils.clip_grad_norm_(own.values(), limit)
        norms[f"{part.name}_grad_norm".lstrip("_")] = float(norm)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)
    if all(math.isfinite(norm) for norm in norms.values()):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms


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
