"""What training keeps of every record besides its tokens: a few numbers, 24 bytes a row."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from preftune.types import Demonstration, Message, PreferencePair, text_of

Facts = np.ndarray[Any, Any]  # of dtype FACTS, one per row
Leans = Iterable[int]  # of pairs: 1 chosen is the longer text, -1 the shorter one, 0 neither

FACTS = np.dtype(
    [
        ("weight", "<f8"),
        ("probability", "<f8"),  # that chosen really is the better one
        ("strength", "i1"),  # 0..3; -1: not said
        ("lean", "i1"),  # 1 chosen is the longer text, -1 the shorter one, 0 neither
        ("turns", "<u2"),  # most assistant turns in one response
        ("own", "<u4"),  # tokens of the model's own, all responses together
    ]
)


class Said(NamedTuple):
    """What a record says beside its text."""

    weight: float = 1.0
    probability: float = 1.0
    strength: int = -1
    lean: int = 0
    turns: int = 1


def said_of_pair(pair: PreferencePair) -> Said:
    """Return what a pair says of itself."""
    return Said(
        weight=pair.weight,
        probability=pair.probability,
        strength=-1 if pair.strength is None else pair.strength,
        lean=lean_of(pair),
        turns=max(_turns(pair.chosen), _turns(pair.rejected)),
    )


def said_of_demonstration(record: Demonstration) -> Said:
    """Return what a row to imitate says of itself."""
    return Said(weight=record.weight, turns=_turns(record.response))


def facts_of(pairs: Sequence[PreferencePair]) -> Facts:
    """Return the facts of pairs whose tokens nobody counted."""
    return np.array([(*said_of_pair(pair), 0) for pair in pairs], dtype=FACTS)


def lean_of(pair: PreferencePair) -> int:
    """Return 1 when chosen has more characters than rejected, -1 when it has fewer, else 0."""
    gap = len(text_of(pair.chosen)) - len(text_of(pair.rejected))
    return (gap > 0) - (gap < 0)


def _turns(response: tuple[Message, ...]) -> int:
    return sum(message.role == "assistant" for message in response)
