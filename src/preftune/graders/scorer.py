"""Whatever gives a response a number: a reward model, a grader, a rule, a function of one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from preftune.types import Message, Prompt

Answer = tuple[Prompt, tuple[Message, ...]]  # a prompt and a response to it


@runtime_checkable
class Scorer(Protocol):
    """Scores responses; higher is better. A score depends on its own row, not on its neighbours."""

    @property
    def name(self) -> str:
        """Who scores, exactly: equal names mean equal scores."""

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return one score per row, in the same order; None where it could give none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionScorer:
    """Any function of a prompt and a response as a scorer."""

    name: str
    function: Callable[[Prompt, tuple[Message, ...]], float | None]

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return what the function says of each row."""
        return [self.function(prompt, response) for prompt, response in rows]


@runtime_checkable
class Ensemble(Protocol):
    """A scorer that asks several models: how far they disagree is a sign of being gamed."""

    def parts(self, rows: Sequence[Answer]) -> list[list[float]]:
        """Return the scores of each model, model after model."""
