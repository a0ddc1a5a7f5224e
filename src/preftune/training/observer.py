"""Who looks on while a run trains: hears of each step, measures on other rows, takes models.

A run with an observer learns the same, to the last bit: what an observer measures needs no random
numbers of the run and leaves the model as it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.modes import evaluating
from preftune.engine.precision import Masters, trainable
from preftune.models.chat import Chat
from preftune.models.load import save_policy

Validate = Callable[[Sequence[int], int], dict[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainee:
    """What an observer may use of a run.

    Attributes:
        order: which rows make up which step.
        validation_rows: rows that `validate` knows.
        validate: figures of the model as it is now, of these rows, after this step.
        save: writes the model as it is now into a folder, as `final/` would hold it.
    """

    order: Order
    validation_rows: int
    validate: Validate
    save: Callable[[Path], object]


class Observer(Protocol):
    """Looks on. Steps count from 0; `stops` is asked once a step, then `after`, then `saved`."""

    @property
    def validation(self) -> Path | None:
        """Rows that are not trained on, to be measured on; pairs come by `held_out` instead."""

    @property
    def samples(self) -> int:
        """Responses drawn to each validation prompt."""

    def meet(self, trainee: Trainee) -> None:
        """Take what may be used; before the first step."""

    def figures(self, step: int, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Return what to add to the metrics of a step that is learnt from, not yet recorded."""

    def stops(self) -> bool:
        """Whether the run shall save after this step, and stop."""

    def after(self, step: int, seconds: Mapping[str, float], *, last: bool) -> None:
        """Hear that a step is recorded, and what its parts took; the run publishes its last one."""

    def saved(self, steps: int) -> None:
        """Hear that a checkpoint holds so many steps."""


def introduce(
    observer: Observer, learner: Learner, chat: Chat, model: Any, *, rows: int, validate: Validate
) -> None:
    """Tell an observer whom it will see.

    Args:
        observer: looks on.
        learner: what learns.
        chat: of the model.
        model: what is saved of it in the end.
        rows: validation rows.
        validate: figures of some of them.
    """

    def save(folder: Path) -> None:
        with in_full(learner.masters):
            save_policy(model, chat, folder)

    observer.meet(Trainee(order=learner.order, validation_rows=rows, validate=validate, save=save))


@contextmanager
def in_full(masters: Masters) -> Iterator[None]:
    """Let the model hold its trained weights in fp32 inside the block, to be saved."""
    trained = trainable(masters.model)
    computed = {name: parameter.data for name, parameter in trained.items()}
    try:
        for name, parameter in trained.items():
            parameter.data = masters.weights[name].data
        with evaluating(masters.model):
            yield
    finally:
        for name, parameter in trained.items():
            parameter.data = computed[name]
