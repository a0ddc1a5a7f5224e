"""The curves of a run, one file per thing one would ask about it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from preftune.plots import BLUE, COLOURS, INK, MUTED, ORANGE, figure, save, svg
from preftune.stats.over_optimisation import Evaluation, fit_rl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
FEWEST_FOR_LAW = 3  # different distances above 0
WORTH_DRAWING = 0.5  # share of the variance that the law explains
CURVES = {
    "loss": ("loss", "preference_loss", "nll"),
    "accuracy": ("accuracy", "length_correlation"),
    "log ratio and margin": ("chosen_logratio", "rejected_logratio", "margin"),
    "moved from the start": ("chosen_from_start", "rejected_from_start"),
    "change per token": ("chosen_change_per_token", "rejected_change_per_token"),
    "log-prob per token": ("chosen_logp_per_token", "rejected_logp_per_token"),
    "rewards": ("chosen_reward", "rejected_reward", "reward_margin"),
    "reward": ("reward",),
    "KL to the reference, nats a response": ("kl",),
    "length, tokens": ("length_tokens",),
    "value model": ("explained_variance",),
    "entropy, nats a token": ("entropy",),
    "clipped tokens": ("clip_frac",),
    "gradient norm": ("grad_norm", "critic_grad_norm"),
    "learning rate": ("lr",),
}


def plot_run(rows: Sequence[Mapping[str, float | int]], folder: Path) -> None:
    """Write `curves.svg` into the folder; no rows, no file."""
    drawn = run_figure(rows)
    if drawn is not None:
        save(drawn, folder / "curves.svg")


def run_svg(rows: Sequence[Mapping[str, float | int]]) -> str:
    """Return the curves as inline SVG, empty when there are no rows."""
    drawn = run_figure(rows)
    return svg(drawn) if drawn is not None else ""


def plot_looks(rows: Sequence[Evaluation], folder: Path) -> None:
    """Write `watch.svg`: reward and gold against the distance travelled; no looks, no file."""
    drawn = looks_figure(rows)
    if drawn is not None:
        save(drawn, folder / "watch.svg")


def looks_svg(rows: Sequence[Evaluation]) -> str:
    """Return the same as inline SVG, empty when there are no looks."""
    drawn = looks_figure(rows)
    return svg(drawn) if drawn is not None else ""


def looks_figure(rows: Sequence[Evaluation]) -> "Figure | None":
    """Return reward, and gold where it is known, against sqrt KL; None before a second look."""
    if len(rows) < 2:
        return None
    drawn, (axis, *_) = figure(width=5.4, height=3.4)
    far = [max(row.kl, 0.0) ** 0.5 for row in rows]
    axis.plot(far, [row.proxy for row in rows], "o-", color=BLUE, markersize=3, label="reward")
    gold = [(x, row.gold, row.gold_se) for x, row in zip(far, rows, strict=True)]
    known = [(x, y, 2 * (error or 0.0)) for x, y, error in gold if y is not None]
    if known:
        x, y, errors = zip(*known, strict=True)
        axis.errorbar(x, y, yerr=errors, fmt="s-", color=ORANGE, markersize=3, label="gold")
        if rows[0].step == 0 and rows[0].gold is not None:  # the law counts from the reference
            _draw_law(axis, np.array(x), np.array(y))
    axis.set_xlabel("distance from the reference: √KL, KL in nats a response", fontsize=8)
    axis.legend(fontsize=7, frameon=False, loc="lower right")
    return drawn


def _draw_law(axis: "Axes", far: Array, gold: Array) -> None:
    """Draw the law of over-optimisation fitted to gold, and where it says that gold peaks."""
    if len(np.unique(far[far > 0])) < FEWEST_FOR_LAW:
        return
    law = fit_rl(far, gold - gold[0])
    if law.r2 < WORTH_DRAWING:
        return
    line = np.linspace(0, far.max() * 1.1, 100)
    label = f"gold by d (a - b ln d), R² {law.r2:.2f}"
    if law.peak is not None and law.peak <= line[-1]:
        axis.axvline(law.peak, color=MUTED, linewidth=0.8, linestyle=":")
        label += f", peak at KL {law.peak**2:.2f}"
    axis.plot(line, gold[0] + law.at(line), "--", color=MUTED, linewidth=1, label=label)


def run_figure(rows: Sequence[Mapping[str, float | int]]) -> "Figure | None":
    """Return one panel per group of metrics that the rows have, None without rows."""
    groups = {
        title: [name for name in names if any(name in row for row in rows)]
        for title, names in CURVES.items()
    }
    groups = {title: names for title, names in groups.items() if names}
    if not groups:
        return None
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    size = {"width": 3.6 * columns, "height": 2.6 * lines}
    drawn, axes = figure(columns=columns, rows=lines, fitted=False, **size)
    steps = [row["step"] for row in rows]
    for axis, (title, names) in zip(axes, groups.items(), strict=False):
        for name, colour in zip(names, COLOURS, strict=False):
            axis.plot(
                steps,
                [row.get(name, math.nan) for row in rows],
                color=colour,
                linewidth=1.2,
                label=name,
            )
        axis.set_title(title, fontsize=9, color=INK, loc="left")
        axis.yaxis.set_major_formatter("{x:.4g}")
        if len(names) > 1:
            axis.legend(fontsize=7, frameon=False, loc="upper left")
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    return drawn
