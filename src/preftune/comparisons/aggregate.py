"""From verdicts to training rows: several raters' judgments become pairs, ties and ranked lists."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

from preftune.comparisons.raters import label_log_odds
from preftune.comparisons.votes import SWAPPED, Unit, Vote, units, votes_between, votes_in_order
from preftune.errors import DataError
from preftune.types import Comparison, Judgment, PreferencePair, Provenance, RankedList

if TYPE_CHECKING:
    from preftune.comparisons.rater_model import RaterModel

SMOOTHING = 0.5
"""Half a vote for either side: two of two agreeing give 2.5 / 3, never certainty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregated:
    """What became of every two responses compared: a pair, a tie, or the reason why neither."""

    pairs: list[PreferencePair] = field(default_factory=list)
    ties: list[Comparison] = field(default_factory=list)  # two responses each
    identical: list[Comparison] = field(default_factory=list)  # decided, yet word for word the same
    unjudged: list[Comparison] = field(default_factory=list)  # no verdict in this dimension
    unparsed: int = 0  # a judge's answers without a verdict; counted, never scored
    repeats: int = 0  # verdicts that a later one of the same rater replaced


def pairs_from_judgments(
    comparisons: Iterable[Comparison],
    judgments: Iterable[Judgment],
    *,
    dimension: str = "overall",
    accuracies: Mapping[str, float] | None = None,
    model: "RaterModel | None" = None,
) -> Aggregated:
    """Join the verdicts of all raters on each comparison into pairs; a tie is never a pair.

    A comparison and its `swap()` are one unit. A rater has one voice on a unit: a later verdict
    replaces the earlier one in the same order, and verdicts in the two orders are averaged, so a
    judge who contradicts itself votes tie. Each two responses of a unit then are

    - a tie, when ties are at least as many as the votes for either side, or the sides balance;
    - else a pair. `strength` is the rounded median of the graded votes towards chosen (ties and
      opposing grades included, at least 0), None when nobody gave a grade. `chosen_score` and
      `rejected_score` are the raters' mean marks.

    `probability`, that chosen really is better, is 1.0 for a lone vote (nothing to check it
    against), else the smoothed vote share (wins + ½ ties + ½) / (votes + 1); with `accuracies` it
    is the posterior of their votes, a tie saying nothing. With `model` it is the model's, from
    every verdict with the order it was given in (both orders of one rater are two votes), and a
    grade weighs in the median as much as its rater's skill, none below 0. Lone votes too are worth
    what their rater is. A rewrite beats all that it was shown.

    Args:
        comparisons: with unique ids.
        judgments: in the order given; those of other dimensions are left alone.
        dimension: the one to join.
        accuracies: rater id → probability that a vote is right, such as from `dawid_skene`.
        model: from `fit_raters`; not together with `accuracies`.

    Raises:
        DataError: a verdict on an unknown comparison, one that does not fit the responses shown,
            a rater whom `accuracies` or `model` do not know, or both of them given.
    """
    if accuracies is not None and model is not None:
        raise DataError("pairs_from_judgments: accuracies and a model. Give one of them.")
    trust = _Trust(accuracies=accuracies, model=model)
    kept = [j for j in judgments if j.dimension == dimension]
    parsed = [j for j in kept if j.kind != "unparsed"]
    judged = units(comparisons, parsed)
    found = Aggregated(
        unjudged=[unit.comparison for unit in judged if not unit.voices],
        unparsed=len(kept) - len(parsed),
        repeats=sum(unit.repeats for unit in judged),
    )
    for unit in judged:
        found.pairs.extend(_rewrite_pairs(unit))
        for i, j in combinations(range(len(unit.comparison.responses)), 2):
            if votes := votes_between(unit, i, j):
                _settle(_Contest(unit=unit, i=i, j=j, votes=votes), trust, found)
    return found


def rankings_from_judgments(
    comparisons: Iterable[Comparison],
    judgments: Iterable[Judgment],
    *,
    dimension: str = "overall",
) -> list[RankedList]:
    """Return one ranked list per comparison that was ranked, best mean place first.

    Places are averaged over raters, tied responses sharing theirs; equal means are tied ranks.
    `scores` are the mean marks where raters gave some. Comparisons that nobody ranked give none.

    Raises:
        DataError: as `pairs_from_judgments`.
    """
    ranked = [j for j in judgments if j.dimension == dimension and j.kind == "ranking"]
    return [_ranked_list(unit) for unit in units(comparisons, ranked) if unit.voices]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contest:
    """Responses i and j of a unit and the votes between them."""

    unit: Unit
    i: int
    j: int
    votes: list[Vote]

    @property
    def shown(self) -> Comparison:
        """The two responses as a comparison of their own."""
        whole = self.unit.comparison
        if len(whole.responses) == 2:
            return whole
        two = (whole.responses[self.i], whole.responses[self.j])
        return replace(whole, id=f"{whole.id}/{self.i}-{self.j}", responses=two)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trust:
    """What is known of the raters: nothing, their accuracies, or a model of them."""

    accuracies: Mapping[str, float] | None
    model: "RaterModel | None"

    def lead(self, contest: _Contest) -> float:
        """Return how far the first response is ahead: votes, or nats of log odds."""
        first = [vote for vote in contest.votes if vote.signed > 0]
        second = [vote for vote in contest.votes if vote.signed < 0]
        if self.model is not None:
            return self.model.log_odds(votes_in_order(contest.unit, contest.i, contest.j))
        if self.accuracies is not None:
            return label_log_odds(map(self._accuracy, first), map(self._accuracy, second))
        return float(len(first) - len(second))

    def weight(self, vote: Vote) -> float:
        """Return how much the grade of a vote counts."""
        return 1.0 if self.model is None else max(0.0, self.model.skill[vote.judgment.rater.id])

    def _accuracy(self, vote: Vote) -> float:
        known = self.accuracies or {}
        if vote.judgment.rater.id not in known:
            raise DataError(
                f"judgment {vote.judgment.id}: rater {vote.judgment.rater.id} has no accuracy. "
                "Give one for every rater, or none at all."
            )
        return known[vote.judgment.rater.id]


def _settle(contest: _Contest, trust: _Trust, found: Aggregated) -> None:
    """Put the two responses among the pairs, the ties or the identical ones."""
    most = max(sum(v.signed > 0 for v in contest.votes), sum(v.signed < 0 for v in contest.votes))
    ties = sum(vote.signed == 0 for vote in contest.votes)
    lead = trust.lead(contest)
    shown = contest.shown
    if lead == 0 or ties >= most:
        found.ties.append(shown)
    elif shown.responses[0].messages == shown.responses[1].messages:
        found.identical.append(shown)
    else:
        votes = len(contest.votes)
        plain = trust.accuracies is None and trust.model is None
        probability = (
            _smoothed_share(most, ties, votes) if plain else 1 / (1 + math.exp(-abs(lead)))
        )
        found.pairs.append(_pair(contest, 1 if lead > 0 else -1, probability, trust))


def _smoothed_share(wins: int, ties: int, votes: int) -> float:
    return 1.0 if votes == 1 else (wins + ties / 2 + SMOOTHING) / (votes + 2 * SMOOTHING)


def _pair(contest: _Contest, sign: int, probability: float, trust: _Trust) -> PreferencePair:
    """Return the pair; `sign` is 1 where the first of the two responses is chosen, else -1."""
    shown, votes = contest.shown, contest.votes
    said = [vote.judgment for vote in votes]
    chosen, rejected = shown.responses[::sign]
    chosen_at, rejected_at = (contest.i, contest.j)[::sign]
    grades = [(vote.signed * sign, trust.weight(vote)) for vote in votes if vote.graded]
    heard = [grade for grade in grades if grade[1] > 0]
    clear = bool(heard) and any(judgment.kind == "scale" for judgment in said)
    orders = {judgment.comparison_id.endswith(SWAPPED) for judgment in said}
    provenance = replace(
        _provenance(contest.unit.comparison, said),
        chosen_generator=chosen.generator,
        rejected_generator=rejected.generator,
        chosen_shown_first=(sign > 0) != orders.pop() if len(orders) == 1 else None,
    )
    return PreferencePair(
        id=f"{shown.id}/{said[0].dimension}",
        prompt=shown.prompt,
        chosen=chosen.messages,
        rejected=rejected.messages,
        strength=max(0, math.floor(_median(heard) + 0.5)) if clear else None,
        probability=probability,
        dimension=said[0].dimension,
        chosen_score=_mean_mark(said, chosen_at),
        rejected_score=_mean_mark(said, rejected_at),
        why=_reasons(said),
        provenance=provenance,
    )


def _median(weighted: Sequence[tuple[float, float]]) -> float:
    """Return the median of (value, weight): half of the weight on either side."""
    half = sum(weight for _, weight in weighted) / 2
    below, upto = 0.0, sorted(weighted)
    for place, (value, weight) in enumerate(upto):
        below += weight
        if math.isclose(below, half):
            return (value + upto[place + 1][0]) / 2
        if below > half:
            return value
    raise AssertionError("half of the weight is reached before its end")


def _rewrite_pairs(unit: Unit) -> Iterator[PreferencePair]:
    said = [judgment for voice in unit.voices for judgment in voice]
    for number, judgment in enumerate(j for j in said if j.rewrite is not None):
        for place, response in enumerate(unit.comparison.responses):
            if judgment.rewrite is not None and judgment.rewrite.messages != response.messages:
                yield PreferencePair(
                    id=f"{unit.comparison.id}/{judgment.dimension}/rewrite-{number}-{place}",
                    prompt=unit.comparison.prompt,
                    chosen=judgment.rewrite.messages,
                    rejected=response.messages,
                    dimension=judgment.dimension,
                    why=_reasons([judgment]),
                    provenance=replace(
                        _provenance(unit.comparison, [judgment]),
                        chosen_generator=judgment.rewrite.generator,
                        rejected_generator=response.generator,
                    ),
                )


def _ranked_list(unit: Unit) -> RankedList:
    said = [judgment for voice in unit.voices for judgment in voice]
    responses = unit.comparison.responses
    means = [fmean(_place(judgment, at) for judgment in said) for at in range(len(responses))]
    order = sorted(range(len(responses)), key=lambda at: means[at])
    distinct = sorted(set(means))
    marks = [_mean_mark(said, at) for at in order]
    return RankedList(
        id=f"{unit.comparison.id}/{said[0].dimension}",
        prompt=unit.comparison.prompt,
        responses=tuple(responses[at].messages for at in order),
        ranks=tuple(distinct.index(means[at]) + 1 for at in order),
        dimension=said[0].dimension,
        scores=tuple(mark for mark in marks if mark is not None),
        why=_reasons(said),
        provenance=_provenance(unit.comparison, said),
    )


def _place(judgment: Judgment, at: int) -> float:
    """Return the place, from 0, of a response in a ranking; tied responses share the middle."""
    better = 0
    for group in judgment.ranking:
        if at in group:
            return better + (len(group) - 1) / 2
        better += len(group)
    raise AssertionError("a ranking holds every response, as `units` checked")


def _mean_mark(judgments: Sequence[Judgment], at: int) -> float | None:
    marks = [judgment.scores[at] for judgment in judgments if judgment.scores]
    return fmean(marks) if marks else None


def _reasons(judgments: Sequence[Judgment]) -> str:
    return "\n".join(
        f"{judgment.rater.id}: {judgment.why}" for judgment in judgments if judgment.why
    )


def _provenance(comparison: Comparison, judgments: Sequence[Judgment]) -> Provenance:
    kinds = {judgment.rater.kind for judgment in judgments}
    guidelines = dict.fromkeys(judgment.guideline for judgment in judgments if judgment.guideline)
    return Provenance(
        source=comparison.prompt.source,
        comparison_id=comparison.id,
        raters=tuple(dict.fromkeys(judgment.rater.id for judgment in judgments)),
        rater_kind=kinds.pop() if len(kinds) == 1 else "unknown",
        guideline=", ".join(guidelines),
    )
