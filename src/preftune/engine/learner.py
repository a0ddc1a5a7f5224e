"""What learns: a model, its optimiser, the order of its rows, and what else a method keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from preftune.engine.batches import Order
from preftune.engine.checkpoint import Checkpoint
from preftune.engine.optimizer import (
    WHOLE,
    Part,
    adamw,
    load_optimizer_tensors,
    lr_factor,
    optimizer_step,
    optimizer_tensors,
)
from preftune.engine.precision import Masters
from preftune.engine.settings import OptimizerSettings
from preftune.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """Everything one optimiser step needs besides the gradient.

    `extra` is for whatever else a method must keep between steps, such as a running mean: finite
    tensors that share no memory. They are saved and restored with the weights.
    """

    masters: Masters
    optimizer: Optimizer
    order: Order
    settings: OptimizerSettings
    parts: tuple[Part, ...] = WHOLE
    extra: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module | Masters,
        order: Order,
        settings: OptimizerSettings,
        *,
        parts: tuple[Part, ...] = WHOLE,
    ) -> "Learner":
        """Return a learner of a model's trainable parameters, or of the masters made of it."""
        masters = model if isinstance(model, Masters) else Masters(model)
        optimizer = adamw(masters.weights, settings, parts)
        return cls(
            masters=masters, optimizer=optimizer, order=order, settings=settings, parts=parts
        )

    @property
    def model(self) -> nn.Module:
        """The model that computes."""
        return self.masters.model

    def update(self, step: int) -> dict[str, float]:
        """Make the optimiser step with the gradients at hand; return learning rate and norm."""
        s = self.settings
        factor = lr_factor(
            step, steps=self.order.steps, warmup_frac=s.warmup_frac, schedule=s.schedule
        )
        norms = optimizer_step(
            self.masters.weights,
            self.optimizer,
            lr=s.lr * factor,
            max_grad_norm=s.max_grad_norm,
            parts=self.parts,
        )
        self.masters.publish()
        return {"lr": s.lr * factor, **norms}

    def forget_gradients(self) -> None:
        """Leave out what the last backward gave."""
        for weight in (*self.masters.weights.values(), *self.model.parameters()):
            weight.grad = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all that a checkpoint must hold, by group: `model`, `optimizer`, `extra`."""
        return {
            "model": {name: p.detach() for name, p in self.masters.weights.items()},
            "optimizer": optimizer_tensors(self.masters.weights, self.optimizer),
            "extra": dict(self.extra),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take back what `tensors` gave; all of it is checked before anything is changed.

        Raises:
            CheckpointError: the tensors are damaged, or belong to another model.
        """
        weights = checkpoint.tensors("model")
        state = checkpoint.tensors("optimizer")
        extra = checkpoint.tensors("extra")
        parameters = self.masters.weights
        unknown = {key.rsplit("/", 1)[0] for key in state} - parameters.keys()
        there, here = _kinds(weights) | dict.fromkeys(unknown, "trained"), _kinds(parameters)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise CheckpointError(
                    f"{checkpoint.folder}: made for another model: {name} is "
                    f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} here. "
                    "Start the run in a new folder."
                )
        for name, tensor in weights.items():
            parameters[name].data.copy_(tensor)
        self.masters.publish()
        load_optimizer_tensors(self.masters.weights, self.optimizer, state)
        self.extra.clear()
        self.extra.update({name: tensor.clone() for name, tensor in extra.items()})


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return type and shape of each tensor, as a message says them."""
    return {n: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for n, t in tensors.items()}
