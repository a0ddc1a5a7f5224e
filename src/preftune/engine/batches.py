"""Which rows make up which step: a pure function of (lengths, batch size, seed, epoch).

Nothing of the order is ever saved: a resumed run asks for step n and gets the same rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.settings import OptimizerSettings
from preftune.errors import SettingsError
from preftune.models.tokens import TokenSequence

T = TypeVar("T")
POOL_BATCHES = 64  # batches whose rows are sorted by length together: less padding, still shuffled


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """The rows of every step of a run."""

    lengths: tuple[int, ...]  # tokens of each row in the stream; like lengths share a batch
    batch_size: int  # rows per optimiser step
    epochs: float  # passes over the rows; a fraction ends within a pass
    seed: int

    def __post_init__(self) -> None:
        if not self.lengths:
            raise SettingsError("no rows to train on. Give a file with at least one usable row.")

    @classmethod
    def of(
        cls, rows: Iterable[Sequence[TokenSequence]], settings: OptimizerSettings, *, seed: int
    ) -> "Order":
        """Return the order of rows of one or more sequences that share a prompt."""
        return cls.of_lengths([stream_length(row) for row in rows], settings, seed=seed)

    @classmethod
    def of_lengths(
        cls, lengths: Sequence[int], settings: OptimizerSettings, *, seed: int
    ) -> "Order":
        """Return the order of rows of these lengths: tokens in the stream."""
        return cls(
            lengths=tuple(lengths),
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=seed,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; the last batch of a pass may be smaller."""
        return -(-len(self.lengths) // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, at least 1."""
        return max(1, round(self.epochs * self.steps_per_epoch))

    def batches(self, *, start: int = 0) -> Iterator[list[int]]:
        """Yield the row numbers of step `start`, `start` + 1, … to the end of the run."""
        for step in range(start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == start:
                in_epoch = epoch_batches(self.lengths, self.batch_size, self.seed, epoch)
            yield in_epoch[place]

    def micro_batches(self, tokens: int) -> Iterator[list[int]]:
        """Yield every row once, in the micro-batches of the first pass.

        Args:
            tokens: most tokens in one forward; 0: no limit.
        """
        for batch in epoch_batches(self.lengths, self.batch_size, self.seed, 0):
            for part in micro_batches([self.lengths[row] for row in batch], tokens):
                yield [batch[place] for place in part]


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Return every row number once, in batches of rows of like length, in an order of its own."""
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    by_length = [
        row
        for begin in range(0, len(shuffled), pool)
        for row in sorted(shuffled[begin : begin + pool].tolist(), key=lambda row: lengths[row])
    ]
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def chunks(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the rows in micro-batches of `size`; 0 means all at once."""
    step = size or max(1, len(rows))
    for begin in range(0, len(rows), step):
        yield rows[begin : begin + step]
