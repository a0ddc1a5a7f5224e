"""What the verdicts of a set say, in the few words the tests of known answers need."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from preftune.datasets.scanned import Scanned
from preftune.stats.ratings import Ratings, bradley_terry, win_matrix
from preftune.types import Comparison, Judgment, Record, text_of

Load = Callable[[str], list[Scanned]]
TIE = "tie"


def near(expected: Any, abs: float = 1e-6) -> Any:
    """Equal to the published digits, the last of which is rounded."""
    return pytest.approx(expected, abs=abs)


def all_of(scanned: Iterable[Scanned]) -> list[Record]:
    return [item.record for item in scanned if item.record is not None]


def comparisons(scanned: Iterable[Scanned]) -> dict[str, Comparison]:
    return {r.id: r for r in all_of(scanned) if isinstance(r, Comparison)}


def said_by(scanned: Iterable[Scanned], kind: str) -> list[Judgment]:
    found = [r for r in all_of(scanned) if isinstance(r, Judgment)]
    return [judgment for judgment in found if judgment.rater.kind == kind]


def outcome(judgment: Judgment) -> int | str:
    """Return 0 or 1 for the position preferred, or tie."""
    return TIE if judgment.choice is None else judgment.choice


def share(yes: Iterable[bool]) -> tuple[float, int]:
    answers = list(yes)
    return sum(answers) / len(answers), len(answers)


def lengths(shown: Comparison) -> tuple[int, ...]:
    return tuple(len(text_of(response.messages)) for response in shown.responses)


def battles(scanned: list[Scanned]) -> dict[str, list[tuple[str, str, int | str]]]:
    """Return (first model, second model, outcome) of every battle, by rater."""
    shown = comparisons(scanned)
    found: dict[str, list[tuple[str, str, int | str]]] = defaultdict(list)
    for judgment in (r for r in all_of(scanned) if isinstance(r, Judgment)):
        first, second = shown[judgment.comparison_id].responses
        models = (first.generator or "", second.generator or "")
        found[judgment.rater.id].append((*models, outcome(judgment)))
    return found


def rate(games: list[tuple[str, str, int | str]]) -> Ratings:
    names, wins = win_matrix((a, b, 0.5 if o == TIE else 1.0 - float(o)) for a, b, o in games)
    return bradley_terry(wins, names=names)
