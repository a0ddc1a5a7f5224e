"""The picture of an inspection: lengths, length bias, strengths, findings."""

from typing import TYPE_CHECKING

import numpy as np

from preftune.datasets.inspect import Inspection
from preftune.plots import BLUE, GREEN, GREY, INK, MUTED, ORANGE, RED, figure
from preftune.stats.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = {"prompt": GREY, "chosen": GREEN, "rejected": RED, "response": BLUE}


def inspection_figure(found: Inspection) -> "Figure":
    """Return four panels: lengths, who wins by length, strengths, findings."""
    drawn, (lengths, bias, strengths, findings) = figure(columns=2, rows=2, width=10, height=6.4)
    drawn.suptitle(f"{found.rows:,} rows in {found.format} format", fontsize=11, color=INK)
    _draw_lengths(lengths, found)
    _draw_bias(bias, found)
    _draw_strengths(strengths, found)
    _draw_findings(findings, found)
    return drawn


def _draw_lengths(axes: "Axes", found: Inspection) -> None:
    _title(axes, "Lengths", "characters, log scale", "rows")
    longest = max((max(lengths) for lengths in found.lengths.values()), default=1)
    bins = np.geomspace(1, max(longest, 2), 40).tolist()
    for name, lengths in found.lengths.items():
        shown = np.maximum(lengths, 1)
        axes.hist(shown, bins=bins, histtype="step", color=SIDES[name], label=name, linewidth=1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    if found.lengths:
        axes.legend(frameon=False, fontsize=8)
    else:
        _nothing(axes, "no text")


def _draw_bias(axes: "Axes", found: Inspection) -> None:
    _title(axes, "Who wins, by length", "share of pairs, 95 % interval", "")
    bias = found.bias
    if not bias.n:
        _nothing(axes, "no pair, no length bias")
        return
    counts = {"same length": bias.equal, "longer wins": bias.longer, "shorter wins": bias.shorter}
    for place, count in enumerate(counts.values()):
        share, interval = count / bias.n, wilson(count, bias.n)
        axes.barh(place, share, color=BLUE, height=0.6)
        axes.plot((interval.low, interval.high), (place, place), color=INK, linewidth=2)
        axes.text(0.98, place, f"{share:.1%}", va="center", ha="right", fontsize=8, color=INK)
    axes.axvline(0.5, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_yticks(range(len(counts)), list(counts))


def _draw_strengths(axes: "Axes", found: Inspection) -> None:
    _title(axes, "Strength of the verdicts", "strength (0: a tie, 3: much better)", "rows")
    if not found.strengths:
        _nothing(axes, "no strength said")
        return
    bars = axes.bar(range(4), [found.strengths.get(s, 0) for s in range(4)], color=BLUE, width=0.6)
    axes.bar_label(bars, padding=2, fontsize=8, color=INK)
    axes.set_xticks(range(4))


def _draw_findings(axes: "Axes", found: Inspection) -> None:
    _title(axes, "To be looked at", "rows", "")
    if not found.findings:
        _nothing(axes, "nothing to look at")
        return
    kinds = [finding.kind.replace("_", " ") for finding in found.findings]
    counts = [len(finding.lines) for finding in found.findings]
    bars = axes.barh(range(len(kinds)), counts, color=ORANGE, height=0.6)
    axes.bar_label(bars, padding=3, fontsize=8, color=INK)
    axes.set_xlim(0, max(counts) * 1.15)
    axes.set_ylim(max(len(kinds), 4) - 0.4, -0.6)  # the first on top
    axes.set_yticks(range(len(kinds)), kinds)
    axes.locator_params(axis="x", integer=True)


def _title(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(across, fontsize=8, color=MUTED)
    axes.set_ylabel(up, fontsize=8, color=MUTED)


def _nothing(axes: "Axes", text: str) -> None:
    axes.set_xscale("linear")
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_axis_off()
