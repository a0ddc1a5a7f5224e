"""What an audit is made of: findings with their intervals, sections, verdicts, the exit code."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from preftune.stats.bootstrap import share_interval
from preftune.stats.intervals import Interval, cluster_places, clustered_se, wilson, z_value

Verdict = Literal["ok", "look", "stop"]
VERDICTS: tuple[Verdict, ...] = ("ok", "look", "stop")
"""From harmless to what must be settled before training."""

LEVEL = 0.95  # of every interval shown
CLOSED_FORM_FROM = 100  # clusters; from here the bootstrap gives the same, slowly
RARE = 10  # clusters; with fewer of one kind the closed form is no good


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with its 95 % interval; `n` counts what is independent behind it."""

    value: float
    low: float
    high: float
    n: int

    def side(self, centre: float = 0.5, *, margin: float = 0.0) -> int:
        """Return 1 or -1 where the interval lies wholly beyond `centre` ± `margin`, else 0."""
        return int(self.low > centre + margin) - int(self.high < centre - margin)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditFinding:
    """One thing that was looked at: how big it is, how bad, what to do, and where it stands."""

    kind: str  # short and stable, such as "length"
    what: str
    size: str  # the figure with its interval, as text
    verdict: Verdict
    fix: str = ""  # empty where nothing is to be done
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    lines: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditTable:
    """A table of texts, every row as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Figures with intervals under one another, beside a line of reference."""

    name: str  # of the file, without its suffix
    title: str
    unit: str
    reference: float
    rows: tuple[tuple[str, float, float, float], ...]  # label, value, low, high


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSection:
    """One part of the audit; what cannot be said of this data is said in `text`."""

    title: str
    text: str = ""
    findings: tuple[AuditFinding, ...] = ()
    tables: tuple[AuditTable, ...] = ()
    bars: tuple[Bars, ...] = ()


def worst(findings: Iterable[AuditFinding]) -> Verdict:
    """Return the worst verdict among the findings; ok when there is none."""
    return max((f.verdict for f in findings), key=VERDICTS.index, default="ok")


def share_estimate(
    values: Sequence[float], clusters: Sequence[Hashable], *, level: float = LEVEL
) -> Estimate:
    """Return the mean of values in 0..1 with an interval over clusters such as prompts.

    With one value per cluster and only 0 and 1 it is Wilson's interval; else the closed form of the
    clustered error from 100 clusters on, below that and near 0 or 1 the bootstrap over clusters.

    Raises:
        DataError: no values, or one outside 0..1.
    """
    x = np.asarray(values, dtype=np.float64)
    place = cluster_places(clusters)
    groups = int(place.max()) + 1 if len(place) else 0
    mean = float(x.mean()) if len(x) else 0.0
    if groups and groups == len(x) and np.isin(x, (0.0, 1.0)).all():
        found = wilson(int(x.sum()), len(x), level=level)
    elif groups >= CLOSED_FORM_FROM and RARE <= mean * groups <= groups - RARE:
        reach = z_value(level) * clustered_se(values, clusters)
        found = Interval(low=max(0.0, mean - reach), high=min(1.0, mean + reach))
    else:
        found = share_interval(values, clusters, level=level)
    return Estimate(value=mean, low=found.low, high=found.high, n=groups)


def shared_level(tests: int) -> float:
    """Return the level of each of so many intervals that all hold together at 95 % (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(1, tests)


def percent(estimate: Estimate) -> str:
    """Return a share as text: `66.9 % (64.1–69.5)`."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.1f} % ({low:.1f}–{high:.1f})"


def number(estimate: Estimate, *, digits: int = 3, unit: str = "") -> str:
    """Return a figure as text: `0.304 (0.281 to 0.329) unit`."""
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high}){' ' * bool(unit)}{unit}"


def share_finding(
    kind: str, estimate: Estimate, *, what: str, verdict: Verdict, fix: str = "", shown: str = ""
) -> AuditFinding:
    """Return the finding of an estimate, shown as a share unless `shown` says it otherwise."""
    return AuditFinding(
        kind=kind,
        what=what,
        size=shown or percent(estimate),
        verdict=verdict,
        fix="" if verdict == "ok" else fix,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
    )


def count_finding(
    kind: str, lines: Iterable[int], rows: int, *, what: str, verdict: Verdict, fix: str
) -> AuditFinding:
    """Return the finding of so many lines, `ok` when there are none."""
    found = tuple(sorted(set(lines)))
    share = len(found) / rows if rows else 0.0
    return AuditFinding(
        kind=kind,
        what=what,
        size=f"{len(found):,} rows ({100 * share:.1f} %)",
        verdict=verdict if found else "ok",
        fix=fix if found else "",
        value=float(len(found)),
        n=rows,
        lines=found,
    )


def bar(label: str, estimate: Estimate) -> tuple[str, float, float, float]:
    """Return one row of `Bars`."""
    return label, estimate.value, estimate.low, estimate.high
