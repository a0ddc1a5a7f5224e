"""How many labels are wrong: from votes on one item, and from models that did not see the label."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from preftune.comparisons.raters import flip_rate
from preftune.datasets.audit_material import Ballot, Material
from preftune.datasets.audit_parts import (
    AuditFinding,
    AuditSection,
    Estimate,
    share_estimate,
    share_finding,
)
from preftune.errors import DataError
from preftune.stats.bootstrap import bootstrap_ratios, percentile_interval
from preftune.stats.intervals import clustered_se

Array = NDArray[np.float64]
FEWEST = 20  # items with two votes, or pairs, before a rate is told
LOOK, STOP = 0.1, 0.3  # the lower end of the noise of models at which to look, and to stop
VOTES_LOOK = 0.3  # the same for single votes: .2 is what votes of people in public sets give
CONFIDENT = 0.9  # a model this sure of the other response disagrees with confidence
RATES = np.linspace(0.0, 0.5, 251)
STEEPNESS = np.geomspace(0.05, 50.0, 121)  # nats per median margin
BINS = 100
DROP = 1.9207  # half the 95 % point of chi-squared with one degree of freedom


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseFit:
    """What margins of models that never saw the label say about the labels."""

    rate: Estimate  # share of labels that are flipped
    steepness: float  # nats per unit of margin
    wrong: Array  # [N] probability that each label is flipped
    confident: Estimate  # share of pairs whose other response the models are sure of


def vote_noise(material: Material) -> AuditSection:
    """Return the share of wrong votes that explains how often votes on one item agree."""
    findings = []
    for kind in material.kinds:
        ballots = [b for b in material.ballots if b.kind == kind and b.sign]
        findings += _vote_finding(kind, "different raters", _agreeing(ballots, same=False))
        findings += _vote_finding(kind, "the same rater again", _agreeing(ballots, same=True))
    text = (
        "If every vote were flipped by chance alone, this share of flips would explain how often "
        "two votes on one item agree. Honest difference of taste counts as noise here."
    )
    if not findings:
        text = "No item was voted on twice, so repeats say nothing about wrong labels."
    return AuditSection(title="Wrong labels: repeated votes", text=text, findings=tuple(findings))


def fit_noise(margins: Array, prompts: Sequence[Hashable]) -> NoiseFit:
    """Return the share of flipped labels that explains margins of models that never saw them.

    P(the model agrees with the label | margin m) = e + (1 - 2e) · sigmoid(a·|m|): where the model
    is surest it still disagrees with a share e of the labels. e and a are fitted by maximum
    likelihood on a grid; the interval is that of the profile likelihood, widened by the design
    effect of prompts.
    A model that is confidently wrong for reasons of its own raises e, one that knows little makes
    its interval wide.

    Args:
        margins: score of chosen - score of rejected [N], by a model trained on other prompts.
        prompts: the cluster of each pair.

    Raises:
        DataError: fewer than 20 pairs, a margin that is not finite, or all margins 0.
    """
    m = np.asarray(margins, dtype=np.float64)
    if len(m) < FEWEST or not np.isfinite(m).all() or not m.any():
        raise DataError(
            f"fit_noise: {len(m)} margins, not all finite, or all 0. Give {FEWEST} or more."
        )
    unit = float(np.median(np.abs(m[m != 0])))
    agrees = np.where(m == 0, 0.5, m > 0)
    likelihood = _likelihood(np.abs(m) / unit, agrees)
    profile = likelihood.max(axis=1)
    best = int(profile.argmax())
    steepness = float(STEEPNESS[likelihood[best].argmax()])
    inside = profile >= profile.max() - DROP * _design_effect(agrees, prompts)
    rate = Estimate(
        value=float(RATES[best]),
        low=float(RATES[inside].min()),
        high=float(RATES[inside].max()),
        n=len(set(prompts)),
    )
    sure = expit(-steepness * m / unit)  # of the other response, were no label flipped
    flipped, right = rate.value * sure, (1 - rate.value) * (1 - sure)
    confident = share_estimate((sure > CONFIDENT).astype(float).tolist(), prompts)
    return NoiseFit(
        rate=rate,
        steepness=steepness / unit,
        wrong=flipped / np.maximum(flipped + right, 1e-300),
        confident=confident,
    )


def model_noise_findings(fit: NoiseFit) -> tuple[AuditFinding, ...]:
    """Return the findings of a fit: the share of wrong labels, and of confident disagreements."""
    low = fit.rate.low
    return (
        share_finding(
            "label_noise",
            fit.rate,
            what="Labels that models which never saw them take for flipped",
            verdict="stop" if low > STOP else "look" if low > LOOK else "ok",
            fix="Read suspicious.jsonl from the top; give such rows to another rater.",
        ),
        share_finding(
            "confident_disagreement",
            fit.confident,
            what=f"Pairs whose rejected response such a model prefers at {CONFIDENT:.0%} or more",
            verdict="ok",
        ),
    )


def _vote_finding(
    kind: str, who: str, agreeing: tuple[list[float], list[float]] | None
) -> list[AuditFinding]:
    """Return the flip rate behind votes of which `agreeing` says how many agree, per item."""
    if agreeing is None:
        return []
    agree, couples = agreeing
    share = percentile_interval(bootstrap_ratios(agree, couples, range(len(couples))))
    value = sum(agree) / sum(couples)
    rate = Estimate(
        value=_flips(value), low=_flips(share.high), high=_flips(share.low), n=len(couples)
    )
    what = f"Flips that explain votes of {kind}: {who} agree in {value:.1%}"
    return [
        share_finding(
            "vote_noise" if who.startswith("different") else "self_noise",
            rate,
            what=what,
            verdict="look" if rate.low > VOTES_LOOK else "ok",
            fix="Ask more raters per item and join their votes; sharpen the guideline.",
        )
    ]


def _flips(agreement: float) -> float:
    """Return the flip rate; ½ where votes agree less often than by chance."""
    return flip_rate(max(agreement, 0.5))


def _agreeing(ballots: Iterable[Ballot], *, same: bool) -> tuple[list[float], list[float]] | None:
    """Return, per item, how many couples of decided votes agree and how many there are.

    Couples of one rater's own votes when `same`, else of the last votes of two raters.
    """
    votes: dict[Hashable, list[int]] = defaultdict(list)
    if same:
        for ballot in ballots:
            votes[ballot.rater, ballot.unit].append(ballot.sign)
    else:
        for (unit, _), sign in {(b.unit, b.rater): b.sign for b in ballots}.items():
            votes[unit].append(sign)
    counted = [Counter(said) for said in votes.values() if len(said) > 1]
    if len(counted) < FEWEST:
        return None
    agree = [sum(n * (n - 1) / 2 for n in count.values()) for count in counted]
    couples = [count.total() * (count.total() - 1) / 2 for count in counted]
    return agree, couples


def _likelihood(size: Array, agrees: Array) -> Array:
    """Return the log-likelihood [rates, steepness] of who agrees at which size of margin."""
    edges = np.unique(np.quantile(size, np.linspace(0, 1, BINS + 1)))
    place = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, max(len(edges) - 2, 0))
    n = np.bincount(place)
    kept = n > 0
    middle = (np.bincount(place, size)[kept] / n[kept])[:, None]
    agreed = np.bincount(place, agrees)[kept]
    n = n[kept]
    sure = expit(STEEPNESS * middle)  # [bins, steepness]
    found = np.empty((len(RATES), len(STEEPNESS)))
    for row, rate in enumerate(RATES):
        p = np.clip(rate + (1 - 2 * rate) * sure, 1e-12, 1 - 1e-12)
        found[row] = agreed @ np.log(p) + (n - agreed) @ np.log1p(-p)
    return found


def _design_effect(values: Array, clusters: Sequence[Hashable]) -> float:
    """Return how many times wider than independent the variance of the mean is, at least 1."""
    plain = float(values.var()) / len(values)
    if not plain or len(set(clusters)) < 2:
        return 1.0
    return max(1.0, clustered_se(values.tolist(), clusters) ** 2 / plain)
