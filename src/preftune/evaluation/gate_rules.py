"""One rule of a gate, and when it passes, fails, or can't tell.

Pass: the bound, not the estimate, clears the bar. Fail: the bound on the other side shows that the
bar is missed. Can't tell: neither; the sentence says whether more items could help and about how
many. Can't tell is never a pass.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta
from scipy.special import ndtr

from preftune.errors import SettingsError
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.measures import Measure
from preftune.evaluation.regression import PairedSlice
from preftune.stats.intervals import non_inferiority_n, zero_failure_bound
from preftune.stats.paired import PairedDifference, holm

Outcome = Literal["pass", "fail", "can't tell"]
RuleKind = Literal[
    "lower_bound_above",
    "upper_bound_below",
    "value_above",
    "value_below",
    "non_inferior",
    "no_new_failures",
]
NEEDS: dict[RuleKind, tuple[str, ...]] = {
    "lower_bound_above": ("measure", "threshold"),
    "upper_bound_below": ("measure", "threshold"),
    "value_above": ("measure", "threshold"),
    "value_below": ("measure", "threshold"),
    "non_inferior": ("check", "margin"),
    "no_new_failures": ("check", "min_n"),
}
EACH = "each"
Decision = tuple[Outcome, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRule:
    """One rule of a suite; each kind takes just the fields it reads."""

    name: Annotated[str, Meta(min_length=1, description="What the rule protects.")]
    kind: Annotated[RuleKind, Meta(description=f"One of: {', '.join(NEEDS)}.")]
    measure: Annotated[
        str | None, Meta(description="The measure a bound or value kind looks at.")
    ] = None
    threshold: Annotated[float | None, Meta(description="The bar, in the measure's unit.")] = None
    check: Annotated[
        str | None, Meta(description="The check non_inferior and no_new_failures look at.")
    ] = None
    margin: Annotated[
        float | None, Meta(description="Largest loss that is acceptable, a share above 0.")
    ] = None
    min_n: Annotated[
        int | None, Meta(description="Fewest independent items with something to lose, 1 or more.")
    ] = None
    slice: Annotated[
        str | None, Meta(description="A tag; each: every slice of the check for itself.")
    ] = None
    why: Annotated[str, Meta(description="Why the rule is there, shown in the report.")] = ""

    def __post_init__(self) -> None:
        fields = ("measure", "threshold", "check", "margin", "min_n")
        given = tuple(field for field in fields if getattr(self, field) is not None)
        if set(given) != set(NEEDS[self.kind]):
            raise SettingsError(
                f"{self.name}: {self.kind} takes {' and '.join(NEEDS[self.kind])}, "
                f"got {' and '.join(given) or 'neither'}. Give just what it takes."
            )
        if (self.margin is not None and not 0 < self.margin < 1) or (
            self.min_n is not None and self.min_n < 1
        ):
            raise SettingsError(
                f"{self.name}: margin {self.margin}, min_n {self.min_n}. "
                "Give a margin between 0 and 1 and min_n 1 or more."
            )
        if self.slice == EACH and self.measure is not None:
            raise SettingsError(
                f"{self.name}: slice each goes with a check. Name one slice of the measure."
            )


def decide(rule: GateRule, evaluation: Evaluation) -> Decision:
    """Return the outcome of one rule and one sentence: the figure, the bound, n, what to do."""
    if rule.measure is not None:
        return _decide_measure(rule, evaluation)
    check = evaluation.check(rule.check or "")
    if check is None:
        return _missing("check", rule.check, [c.name for c in evaluation.checks])
    if rule.slice == EACH:
        return _decide_each(rule, check.slices)
    part = check.slice(rule.slice or "")
    if part is None:
        return _missing("slice", rule.slice, [s.tag for s in check.slices])
    return _decide_slice(rule, part)


def _decide_measure(rule: GateRule, evaluation: Evaluation) -> Decision:
    known = evaluation.all_measures()
    name = f"{rule.measure}[{rule.slice}]" if rule.slice else str(rule.measure)
    if name not in known:
        return _missing("measure", name, list(known))
    return _MEASURE_KINDS[rule.kind](known[name], rule.threshold or 0.0)


def _decide_slice(rule: GateRule, part: PairedSlice) -> Decision:
    if rule.kind == "non_inferior":
        return non_inferior(part.difference, rule.margin or 0.0)
    return no_new_failures(part, rule.min_n or 1)


def lower_bound_above(measure: Measure, threshold: float) -> Decision:
    """Pass when the low end of the interval is above the threshold, fail when the high end isn't.

    The low end of a two-sided 95 % interval errs on 2.5 % of the models that sit at the threshold.
    """
    if measure.low is None or measure.high is None:
        return "can't tell", f"{_shown(measure)} has no interval. Measure it on more prompts."
    if measure.low > threshold:
        return "pass", f"{_shown(measure)}: the low end is above {threshold:g}."
    if measure.high <= threshold:
        return "fail", f"{_shown(measure)}: even the high end is not above {threshold:g}."
    return "can't tell", (
        f"{_shown(measure)}: the low end is not above {threshold:g}. "
        + _more(measure.value - threshold, measure.value - measure.low, measure.n, "prompts")
    )


def upper_bound_below(measure: Measure, threshold: float) -> Decision:
    """Pass when the high end is below the threshold, fail when the low end isn't."""
    if measure.low is None or measure.high is None:
        return "can't tell", f"{_shown(measure)} has no interval. Measure it on more prompts."
    if measure.high < threshold:
        return "pass", f"{_shown(measure)}: the high end is below {threshold:g}."
    if measure.low >= threshold:
        return "fail", f"{_shown(measure)}: even the low end is not below {threshold:g}."
    return "can't tell", (
        f"{_shown(measure)}: the high end is not below {threshold:g}. "
        + _more(threshold - measure.value, measure.high - measure.value, measure.n, "prompts")
    )


def value_above(measure: Measure, threshold: float) -> Decision:
    """Pass when the estimate itself is above the threshold; for figures that are not samples."""
    if measure.value > threshold:
        return "pass", f"{_shown(measure)}: above {threshold:g}."
    return "fail", f"{_shown(measure)}: not above {threshold:g}."


def value_below(measure: Measure, threshold: float) -> Decision:
    """Pass when the estimate itself is below the threshold; for figures that are not samples."""
    if measure.value < threshold:
        return "pass", f"{_shown(measure)}: below {threshold:g}."
    return "fail", f"{_shown(measure)}: not below {threshold:g}."


_MEASURE_KINDS: dict[RuleKind, Callable[[Measure, float], Decision]] = {
    "lower_bound_above": lower_bound_above,
    "upper_bound_below": upper_bound_below,
    "value_above": value_above,
    "value_below": value_below,
}


def non_inferior(difference: PairedDifference, margin: float) -> Decision:
    """Pass when the one-sided lower bound is above -margin, fail when the upper bound is below it.

    Between the two the data fit both "as good" and "worse than allowed". An estimate beyond the
    margin is not yet a proof of harm, and one inside it is not yet a proof of safety.
    """
    d, percent = difference, f"{100 * difference.level:g} %"
    counts = (
        f"{d.lost} lost and {d.gained} gained of {d.n} items in {d.clusters} clusters: "
        f"{100 * d.difference:+.2f} points"
    )
    low = f"lower {percent} bound {100 * d.low:+.2f}{' (exact)' if d.exact else ''}"
    if d.low > -margin:
        return "pass", f"{counts}, {low}, above {-100 * margin:+g}."
    if d.high < -margin:
        high = f"even the upper {percent} bound {100 * d.high:+.2f}"
        return "fail", f"{counts}, {high} is below {-100 * margin:+g}. It got worse."
    return "can't tell", (
        f"{counts}, {low}, not above {-100 * margin:+g}. " + _more_items(d, margin)
    )


def no_new_failures(part: PairedSlice, min_n: int) -> Decision:
    """Pass when nothing the baseline passes is lost, over `min_n` independent items or more.

    Only clusters with an item the baseline passes count: elsewhere there is nothing to lose.
    """
    d = part.difference
    if d.lost:
        return "fail", (
            f"{d.lost} new failures of {d.n} items; none is allowed. Look at them one by one."
        )
    if part.at_risk < min_n:
        return "can't tell", (
            f"no new failure, but only {part.at_risk} independent items with something to lose; "
            f"{min_n} are needed. Add {min_n - part.at_risk} prompts."
        )
    hidden = zero_failure_bound(part.at_risk, level=d.level)
    return "pass", (
        f"no new failure in {part.at_risk} independent items; a true rate above "
        f"{100 * hidden:.1f} % is ruled out ({100 * d.level:g} %)."
    )


def _decide_each(rule: GateRule, slices: tuple[PairedSlice, ...]) -> Decision:
    """Pass when every slice passes; fail when one fails, with Holm's correction for their number.

    All slices must pass, which needs no correction; a fail picks the worst of many, which does.
    """
    if not slices:
        return "can't tell", f"check {rule.check!r} has no slices. Give its items tags."
    found = [_decide_slice(rule, part) for part in slices]
    if rule.kind == "non_inferior":
        adjusted = holm([_p_worse(part.difference, rule.margin or 0.0) for part in slices])
        found = [
            ("can't tell", f"{said} Not after Holm's correction over {len(slices)} slices.")
            if outcome == "fail" and p >= 1 - part.difference.level
            else (outcome, said)
            for (outcome, said), p, part in zip(found, adjusted, slices, strict=True)
        ]
    outcomes: tuple[Outcome, ...] = ("fail", "can't tell", "pass")
    worst = next(o for o in outcomes if any(outcome == o for outcome, _ in found))
    if worst == "pass":
        return "pass", f"all {len(slices)} slices pass: {', '.join(s.tag for s in slices)}."
    named = [
        f"{part.tag}: {said}"
        for part, (outcome, said) in zip(slices, found, strict=True)
        if outcome == worst
    ]
    return worst, " ".join(named)


def _p_worse(difference: PairedDifference, margin: float) -> float:
    """Return the one-sided p-value of "not worse than the margin allows"."""
    if difference.se == 0.0:
        return 0.0 if difference.high < -margin else 1.0
    return float(ndtr((difference.difference + margin) / difference.se))


def _missing(what: str, name: str | None, known: list[str]) -> Decision:
    close = difflib.get_close_matches(name or "", known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known[:6]) or 'none'}."
    return "can't tell", f"{what} {name!r} was not measured. Measure it and evaluate again. {hint}"


def _shown(measure: Measure) -> str:
    unit = f" {measure.unit}" if measure.unit and measure.unit != "frac" else ""
    interval = (
        ""
        if measure.low is None
        else f", 95 % interval {measure.low:.3f} to {measure.high:.3f} over {measure.n} prompts"
    )
    return f"{measure.name} {measure.value:.3f}{unit}{interval}"


def _more(distance: float, reach: float, n: int, items: str) -> str:
    """Say what more items could do, `distance` on the good side of the bar, error bar `reach`."""
    if distance <= 0:
        return f"The estimate itself misses the bar: more {items} alone are unlikely to help."
    wanted = math.ceil(n * (reach / distance) ** 2)
    return f"Too few to tell: about {max(wanted, n + 1):,} {items}, if the estimate holds."


def _more_items(d: PairedDifference, margin: float) -> str:
    if d.difference <= -margin:
        return _more(d.difference + margin, 0.0, d.n, "items")
    unseen = math.log1p(-d.level) / math.log1p(-margin)  # clusters without a loss that rule it out
    discordance = (d.gained + d.lost) / d.n
    planned = non_inferiority_n(discordance=discordance, margin=margin, level=d.level)
    estimated = 0.0 if d.exact else d.n * ((d.difference - d.low) / (d.difference + margin)) ** 2
    wanted = math.ceil(max(unseen * d.n / d.clusters, planned, estimated, d.n + 1))
    return f"Too few to tell: about {wanted:,} items, if the estimate holds."
