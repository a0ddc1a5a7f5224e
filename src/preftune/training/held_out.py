"""Accuracy on pairs kept out of training, beside what length alone would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from preftune.files import read_json
from preftune.stats.intervals import wilson
from preftune.training.facts import Leans

FILE = "held_out.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of pairs with its 95 % Wilson interval."""

    right: float  # pairs; a tie of the judge counts half
    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """How often the model, and length alone, prefer what the raters chose."""

    model: Share
    length_only: Share
    length_rule: str  # "longer wins" or "shorter wins", whichever was right in training

    def __str__(self) -> str:
        return (
            f"held-out pair accuracy  {_shown(self.model)}\n"
            f"length only             {_shown(self.length_only)}  ({self.length_rule})"
        )


def held_out_report(
    *,
    trained_on: Leans,
    leans: Leans,
    margins: Sequence[float],
) -> HeldOut:
    """Return the accuracy of margins (chosen above rejected when > 0) on the pairs, with intervals.

    The direction of the length baseline is chosen on the training pairs, never on these.

    Args:
        trained_on: which side is longer in each training pair, see `facts.lean_of`.
        leans: the same of the pairs kept out.
        margins: how much higher the model puts chosen, of the same pairs.
    """
    longer = sum(map(int, trained_on)) >= 0
    direction = 1 if longer else -1
    return HeldOut(
        model=_share([_sign(margin) for margin in margins]),
        length_only=_share([direction * int(lean) for lean in leans]),
        length_rule="longer wins" if longer else "shorter wins",
    )


def read_held_out(run: Path) -> HeldOut:
    """Return the report that a run on held-out pairs has written."""
    return msgspec.convert(read_json(run / FILE), HeldOut)


def _share(signs: Sequence[int]) -> Share:
    right = sum((sign + 1) / 2 for sign in signs)
    interval = wilson(round(right), len(signs))
    return Share(
        right=right, n=len(signs), share=right / len(signs), low=interval.low, high=interval.high
    )


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _shown(share: Share) -> str:
    return f"{share.share:.3f}  95 % interval {share.low:.3f}–{share.high:.3f}  n {share.n}"
