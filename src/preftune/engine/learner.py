"""What learns: a model, its optimiser, and the order of its rows."""

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from preftune.engine.batches import Order
from preftune.engine.optimizer import adamw, lr_factor, optimizer_step
from preftune.engine.settings import OptimizerSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """Everything one optimiser step needs besides the gradient."""

    model: nn.Module
    optimizer: Optimizer
    order: Order
    settings: OptimizerSettings

    @classmethod
    def of(cls, model: nn.Module, order: Order, settings: OptimizerSettings) -> "Learner":
        """Return a learner of the model's trainable parameters."""
        return cls(model=model, optimizer=adamw(model, settings), order=order, settings=settings)

    def update(self, step: int) -> dict[str, float]:
        """Make the optimiser step with the gradients at hand; return learning rate and norm."""
        s = self.settings
        factor = lr_factor(
            step, steps=self.order.steps, warmup_frac=s.warmup_frac, schedule=s.schedule
        )
        norm = optimizer_step(
            self.model, self.optimizer, lr=s.lr * factor, max_grad_norm=s.max_grad_norm
        )
        return {"lr": s.lr * factor, "grad_norm": norm}
