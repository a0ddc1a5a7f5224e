"""What judges said on each comparison over both orders, how far they agree, and the pairs of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Literal

from preftune.comparisons.aggregate import Aggregated, pairs_from_judgments
from preftune.comparisons.scales import EQUAL
from preftune.comparisons.votes import SWAPPED
from preftune.errors import DataError
from preftune.stats.agreement import cohen_kappa
from preftune.types import Comparison, Judgment, Message, PreferencePair

Outcome = Literal["first", "second", "tie", "flip", "unparsed"]
SETTLED: tuple[Outcome, Outcome] = ("first", "second")
Outcomes = dict[str, dict[str, Outcome]]
"""By judge, by comparison in its first order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two judges agree on the comparisons that both gave an outcome."""

    judges: tuple[str, str]
    n: int
    share: float  # same outcome; a flip and a tie are both "undecided"
    kappa: float | None  # None when all outcomes of both are one and the same


def lean(judgment: Judgment) -> int | None:
    """Return the response called better in the order shown, 0 or 1; None for a tie or none."""
    if judgment.grade is not None:
        return None if judgment.grade == EQUAL else int(judgment.grade > EQUAL)
    return judgment.choice


def outcomes(judgments: Iterable[Judgment]) -> Outcomes:
    """Return what each judge says over the orders it was asked in.

    `flip`: the two orders name different responses, so the verdict was the place, not the answer.
    `unparsed`: an order has no verdict. A side named in one order and a tie in the other is a tie:
    half a point either way is not a preference.
    """
    said: dict[str, dict[str, list[Judgment]]] = defaultdict(lambda: defaultdict(list))
    for judgment in judgments:
        said[judgment.rater.id][_base(judgment)].append(judgment)
    return {
        judge: {base: _outcome(both) for base, both in items.items()}
        for judge, items in said.items()
    }


def agreement_matrix(found: Outcomes) -> list[Agreement]:
    """Return the agreement of every two judges, in the order of their first verdicts."""
    return [
        _agreement(one, other, found[one], found[other]) for one, other in combinations(found, 2)
    ]


def flips(comparisons: Iterable[Comparison], found: Outcomes) -> list[Comparison]:
    """Return the comparisons that at least one judge decided by place: for people to settle."""
    return [
        c
        for c in comparisons
        if not c.id.endswith(SWAPPED) and any(items.get(c.id) == "flip" for items in found.values())
    ]


def judge_pairs(
    comparisons: Sequence[Comparison], judgments: Sequence[Judgment], *, dimension: str
) -> Aggregated:
    """Return the pairs in the verdicts of one or several judges, with what they are worth.

    Joined as `pairs_from_judgments` does: each judge has one voice, a flip votes tie. A judge with
    no verdict in one of the orders it was asked in has no voice. Then

    - `weight` is the share of judges whose verdict did not flip; 1 where none was asked in both
      orders. Two of three judges steady: .667.
    - `probability`, `chosen_score` and `rejected_score` are the mean probabilities over judges and
      orders where every verdict came with one (from log-probabilities); `probability` is at least
      ½. Else they are what the votes give.

    Raises:
        DataError: as `pairs_from_judgments`.
    """
    kept = [j for j in judgments if j.dimension == dimension]
    found = outcomes(kept)
    voices = [j for j in kept if j.kind == "unparsed" or found[j.rater.id][_base(j)] != "unparsed"]
    joined = pairs_from_judgments(comparisons, voices, dimension=dimension)
    first = {_base_of(c): c.responses[-1 if c.id.endswith(SWAPPED) else 0] for c in comparisons}
    odds = _mean_odds(voices)
    pairs = [_worth(pair, found, odds, first[_pair_base(pair)].messages) for pair in joined.pairs]
    return replace(joined, pairs=pairs)


def _worth(
    pair: PreferencePair,
    found: Outcomes,
    odds: Mapping[str, float],
    first: tuple[Message, ...],
) -> PreferencePair:
    """Return the pair with its weight and, where the verdicts say it, its probability."""
    base = _pair_base(pair)
    said = [items[base] for items in found.values() if items.get(base, "unparsed") != "unparsed"]
    weight = sum(outcome != "flip" for outcome in said) / len(said)
    if base not in odds:
        return replace(pair, weight=weight)
    chosen = odds[base] if pair.chosen == first else 1 - odds[base]
    return replace(
        pair,
        weight=weight,
        probability=max(0.5, chosen),
        chosen_score=chosen,
        rejected_score=1 - chosen,
    )


def _mean_odds(judgments: Iterable[Judgment]) -> dict[str, float]:
    """Return the mean probability that the first is better, where every verdict has one."""
    said: dict[str, list[float | None]] = defaultdict(list)
    for judgment in judgments:
        if judgment.kind != "unparsed":
            sides = judgment.scores if is_odds(judgment.scores) else (None, None)
            said[_base(judgment)].append(sides[judgment.comparison_id.endswith(SWAPPED)])
    return {
        base: fmean(odd for odd in odds if odd is not None)
        for base, odds in said.items()
        if None not in odds
    }


def is_odds(scores: Sequence[float]) -> bool:
    """Whether the marks of a judgment are the probabilities of its two sides."""
    return len(scores) == 2 and min(scores) >= 0 and abs(sum(scores) - 1) < 1e-9


def _base(judgment: Judgment) -> str:
    return judgment.comparison_id.removesuffix(SWAPPED)


def _pair_base(pair: PreferencePair) -> str:
    return pair.provenance.comparison_id.removesuffix(SWAPPED)


def _base_of(comparison: Comparison) -> str:
    return comparison.id.removesuffix(SWAPPED)


def _outcome(judgments: Sequence[Judgment]) -> Outcome:
    last = {judgment.comparison_id: judgment for judgment in judgments}
    if any(judgment.kind == "unparsed" for judgment in last.values()):
        return "unparsed"
    named = []
    for shown_id, judgment in last.items():
        if judgment.kind not in ("binary", "scale", "tie"):
            raise DataError(
                f"judgment {judgment.id}: a {judgment.kind}. Give verdicts on two responses."
            )
        place = lean(judgment)
        named.append(None if place is None else place ^ shown_id.endswith(SWAPPED))
    if None in named:
        return "tie"
    return "flip" if len(set(named)) > 1 else SETTLED[named[0] or 0]


def _agreement(
    one: str, other: str, first: Mapping[str, Outcome], second: Mapping[str, Outcome]
) -> Agreement:
    both = [
        (_coarse(first[item]), _coarse(second[item]))
        for item in first
        if item in second and "unparsed" not in (first[item], second[item])
    ]
    same = sum(a == b for a, b in both)
    spread = Counter(label for labels in both for label in labels)
    kappa = cohen_kappa(*zip(*both, strict=True)) if len(spread) > 1 else None
    share = same / len(both) if both else 0.0
    return Agreement(judges=(one, other), n=len(both), share=share, kappa=kappa)


def _coarse(outcome: Outcome) -> str:
    return outcome if outcome in SETTLED else "undecided"
