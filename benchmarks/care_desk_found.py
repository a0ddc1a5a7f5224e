"""The runs of the care desk that lie in a folder, and what one reads off them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scipy.stats import spearmanr

from benchmarks.care_desk_runs import MethodRun, Panel, Point, WatchedRun
from preftune.evaluation.evaluate import read_typed
from preftune.stats.over_optimisation import FEWEST_POINTS, Law, fit_rl
from preftune.stats.over_optimisation import Evaluation as Look

NEAR = 1.0  # nats; below it gold should rise with the distance

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All runs that lie in a folder."""

    methods: list[MethodRun]
    points: list[Point]
    clean: list[WatchedRun]
    hacked: list[WatchedRun]
    stopped: list[WatchedRun]
    honest: list[Panel]
    spoilt: list[Panel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hump:
    """What became of gold in a run that nobody stopped."""

    peak: Look
    proxy_rank: float  # Spearman of step and proxy: 1 is a proxy that never falls
    fall_rank: float | None  # Spearman of step and gold from the peak on: -1 is a fall without halt
    law: Law | None  # None: fewer than three looks


def read_found(root: Path) -> Found:
    """Return the runs of all seeds in a folder."""
    alone = read_runs(root, "b1-dpo-*", Point)
    together = read_runs(root, "b1-best-of", list[Point])
    clean = read_runs(root, "clean", WatchedRun)
    return Found(
        methods=read_runs(root, "method-*", MethodRun),
        points=[
            *alone,
            *(point for points in together for point in points),
            *(point for run in clean for point in rloo_points(run)),
        ],
        clean=clean,
        hacked=read_runs(root, "hacked", WatchedRun),
        stopped=read_runs(root, "stopped", WatchedRun),
        honest=read_runs(root, "labels-none", Panel),
        spoilt=read_runs(root, "labels-beta-0-rl", Panel),
    )


def rloo_points(run: WatchedRun) -> list[Point]:
    """Return the looks of a run as points; gold is counted from its first look."""
    start = gold_of(run.looks[0])
    return [
        Point(
            line="RLOO",
            name=f"step {look.step}",
            seed=run.seed,
            kl=look.kl,
            gold=gold_of(look) - start,
        )
        for look in run.looks[1:]
    ]


def gold_of(look: Look) -> float:
    """Return the gold of a look; every run here has an audit."""
    if look.gold is None:
        raise RuntimeError(f"step {look.step}: a look without gold. Give the run an audit.")
    return look.gold


def distance(kl: float) -> float:
    """Return sqrt KL; a sampled KL a little below 0 is 0."""
    return math.sqrt(max(kl, 0.0))


def rank(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's correlation, None for fewer than three points or where one is constant."""
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(spearmanr(x, y).statistic)


def near_rank(points: Iterable[Point]) -> float | None:
    """Return the rank correlation of sqrt KL and gold over the points below one nat."""
    near = [point for point in points if point.kl < NEAR]
    return rank([distance(point.kl) for point in near], [point.gold for point in near])


def hump(run: WatchedRun) -> Hump:
    """Return where gold was highest, how it went on, and the law d (a - b ln d) fitted to it."""
    peak = max(run.looks, key=gold_of)
    after = [look for look in run.looks if look.step >= peak.step]
    steps = [look.step for look in run.looks]
    return Hump(
        peak=peak,
        proxy_rank=rank(steps, [look.proxy for look in run.looks]) or 0.0,
        fall_rank=rank([look.step for look in after], [gold_of(look) for look in after]),
        law=_law(run.looks),
    )


def fallen_below_start(run: WatchedRun) -> Look | None:
    """Return the first look after the peak whose gold is under that of the start, if any."""
    start, peak = gold_of(run.looks[0]), max(run.looks, key=gold_of)
    after = (look for look in run.looks if look.step > peak.step)
    return next((look for look in after if gold_of(look) < start), None)


def in_time(run: WatchedRun) -> bool:
    """Whether a run was stopped by a look at which gold was not yet under that of the start.

    The step that was under way is still made, and a last look taken: what is published is older.
    """
    fallen = fallen_below_start(run)
    return run.stopped is not None and (fallen is None or fallen.step > run.stopped)


def _law(looks: Sequence[Look]) -> Law | None:
    d, start = [distance(look.kl) for look in looks], gold_of(looks[0])
    if len(d) < FEWEST_POINTS:
        return None
    return fit_rl(d, [gold_of(look) - start for look in looks])


def read_runs(root: Path, name: str, kind: type[T]) -> list[T]:
    """Return the runs of one name or pattern, of all seeds."""
    files = sorted(root.glob(f"seed-*/{name}.json"))
    return [read_typed(file, kind, "Delete it and run again") for file in files]
