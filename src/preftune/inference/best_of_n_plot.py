"""The curves of best-of-n: what the best of k gains, how often it wins, what it costs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from preftune import plots
from preftune.inference.best_of_n_report import Row
from preftune.stats.best_of_n import CurvePoint

Panel = Callable[[Any, Sequence[Row]], None]


def draw_plot(rows: Sequence[Row], path: Path) -> None:
    """Write the curves as SVG: quality, win rates and tokens, where there are any, each against k.

    Args:
        rows: of a report, one at least.
        path: file to write.
    """
    panels: list[Panel] = [_quality]
    if any(row.win_rate for row in rows):
        panels.append(_wins)
    if any(row.slowest_tokens for row in rows):
        panels.append(_cost)
    drawn, axes = plots.figure(columns=len(panels), width=3.6 * len(panels), height=3.2)
    for panel, axis in zip(panels, axes, strict=True):
        panel(axis, rows)
        axis.set_xlabel("k: responses drawn")
        if len(rows) > 1:
            axis.set_xscale("log", base=2)
            axis.set_xticks([1 << power for power in range(len(rows).bit_length())])
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.legend(fontsize=7, frameon=False)
    plots.save(drawn, path)


def _quality(axis: Any, rows: Sequence[Row]) -> None:
    _band(axis, [row.score for row in rows], "score", plots.BLUE)
    _band(axis, [row.gold for row in rows], "gold", plots.ORANGE)
    axis.set_ylabel("expected quality of the best of k")


def _wins(axis: Any, rows: Sequence[Row]) -> None:
    _band(axis, [row.win_rate for row in rows], "by score", plots.BLUE)
    _band(axis, [row.gold_win_rate for row in rows], "by gold", plots.ORANGE)
    bounds = [row.win_rate_upper_bound for row in rows]
    k = [row.k for row in rows]
    axis.plot(k, bounds, color=plots.GREY, linestyle="--", label="upper bound k / (k + 1)")
    axis.set_ylabel("win rate against one draw")


def _cost(axis: Any, rows: Sequence[Row]) -> None:
    tokens = [(row.k, row.tokens) for row in rows if row.tokens is not None]
    axis.plot(*zip(*tokens, strict=True), color=plots.BLUE, label="all k")
    _band(axis, [row.slowest_tokens for row in rows], "the longest of k", plots.ORANGE)
    axis.set_ylabel("tokens per prompt")
    axis.set_yscale("log")


def _band(axis: Any, points: Sequence[CurvePoint | None], label: str, colour: str) -> None:
    """Draw a curve with its interval; nothing where there are no points."""
    found = [point for point in points if point is not None]
    if not found:
        return
    k = [point.k for point in found]
    axis.plot(k, [p.mean for p in found], color=colour, marker="o", markersize=2, label=label)
    low = [p.mean if p.low is None else p.low for p in found]
    high = [p.mean if p.high is None else p.high for p in found]
    axis.fill_between(k, low, high, color=colour, alpha=0.15, linewidth=0)
