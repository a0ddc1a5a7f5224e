"""How often a model wins: people on a slice, the judge on everything, one interval that holds."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from preftune.comparisons.judging.panel import is_odds, outcomes
from preftune.comparisons.votes import SWAPPED, between
from preftune.stats.prediction_powered import PoweredMean, prediction_powered_mean
from preftune.types import Comparison, Judgment

FEWEST_LABELLED = 30  # prompts with labels of people, before anything is said
MOST_SHOWN = 10  # models, those with most labels


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """How often one model wins, a tie as half: by people and the judge, and by people alone."""

    judge: str
    generator: str
    judge_says: float  # of everything it judged, uncorrected
    powered: PoweredMean
    people: PoweredMean  # their labels alone
    labelled: int  # comparisons with labels of people, among
    n: int  # those that the judge judged

    def __str__(self) -> str:
        """Return the three rates in a line, people and judge first."""
        both, alone = (_shown(mean) for mean in (self.powered, self.people))
        return (
            f"{self.generator} wins {both} by people and {self.judge}; people alone {alone} on "
            f"{self.labelled:,}; {self.judge} alone {self.judge_says:.1%} on {self.n:,}"
        )


def win_rates(
    comparisons: Iterable[Comparison], judgments: Sequence[Judgment], people: Iterable[Judgment]
) -> list[WinRate]:
    """Return each model's win rate per judge, where people labelled 30 prompts of its or more.

    Of two models one is told, for the other's rate is what is left. Intervals are over prompts and
    hold if the labelled comparisons were drawn at random from all. See `prediction_powered_mean`.

    Args:
        comparisons: of two responses, in their first order.
        judgments: of the judges, in any order of the responses.
        people: labels of people on some of the comparisons, in the same dimension.
    """
    shown = {c.id: c for c in comparisons}
    truth = _mean_by_comparison(people)
    found = []
    for judge, items in outcomes(judgments).items():
        says = _mean_by_comparison(j for j in judgments if j.rater.id == judge)
        judged = [shown[name] for name in items if items[name] != "unparsed" and name in shown]
        for generator in _generators(judged, truth):
            rate = _win_rate(judge, generator, judged, says, truth)
            found += [rate] if rate else []
    return found


def _win_rate(
    judge: str,
    generator: str,
    judged: Iterable[Comparison],
    says: Mapping[str, float],
    truth: Mapping[str, float],
) -> WinRate | None:
    """Return the win rate of a model; None with too few labelled prompts."""
    played = [c for c in judged if _plays(generator, c)]
    known = [c for c in played if c.id in truth]
    if len({c.prompt.id for c in known}) < FEWEST_LABELLED:
        return None
    f = [_of(generator, c, says) for c in played]
    mean = partial(
        prediction_powered_mean,
        f,
        labelled_predictions=[_of(generator, c, says) for c in known],
        labels=[_of(generator, c, truth) for c in known],
        clusters=[c.prompt.id for c in played],
        labelled_clusters=[c.prompt.id for c in known],
    )
    return WinRate(
        judge=judge,
        generator=generator,
        judge_says=fmean(f),
        powered=mean(),
        people=mean(weight=0.0),
        labelled=len(known),
        n=len(played),
    )


def _generators(judged: Sequence[Comparison], truth: Mapping[str, float]) -> list[str]:
    """Return the models to tell of, most labels first; of two the one that comes first."""
    labels: Counter[str] = Counter()
    for comparison in judged:
        for response in comparison.responses:
            if response.generator and _plays(response.generator, comparison):
                labels[response.generator] += comparison.id in truth
    named = [name for name, _ in labels.most_common()]
    return sorted(named)[:1] if len(named) == 2 else named[:MOST_SHOWN]


def _plays(generator: str, comparison: Comparison) -> bool:
    """Whether it wrote one of the two responses, and something else the other."""
    return sum(response.generator == generator for response in comparison.responses) == 1


def _of(generator: str, comparison: Comparison, first: Mapping[str, float]) -> float:
    """Return how far this model wins, 0..1, from how far the first response does."""
    value = first[comparison.id]
    return value if comparison.responses[0].generator == generator else 1 - value


def _shown(mean: PoweredMean) -> str:
    return f"{mean.value:.1%} ({max(0.0, mean.low):.1%} to {min(1.0, mean.high):.1%})"


def _mean_by_comparison(judgments: Iterable[Judgment]) -> dict[str, float]:
    """Return how far the first response wins, 0..1, the mean of raters and of their orders."""
    said: dict[str, dict[tuple[str, bool], float]] = defaultdict(dict)
    for judgment in judgments:
        signed = between(judgment, 0, 1)
        if signed is None or judgment.kind == "unparsed":
            continue
        swapped = judgment.comparison_id.endswith(SWAPPED)
        first = 0.5 + 0.5 * ((signed > 0) - (signed < 0))
        if judgment.rater.kind == "judge" and is_odds(judgment.scores):
            first = judgment.scores[0]
        base = judgment.comparison_id.removesuffix(SWAPPED)
        said[base][judgment.rater.id, swapped] = 1 - first if swapped else first
    return {name: fmean(values.values()) for name, values in said.items()}
