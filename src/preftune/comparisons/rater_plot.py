"""Raters on one page: skill across, side bias up, one dot each, the odd ones named."""

from pathlib import Path

from preftune.comparisons.rater_model import RaterModel
from preftune.comparisons.rater_report import RaterRow
from preftune.plots import BLUE, INK, MUTED, RED, figure, save

MOST_NAMES = 20
SHORT = 24  # characters of a rater's id


def plot_raters(rows: list[RaterRow], model: RaterModel, path: Path) -> None:
    """Write skill against side bias of each rater; flagged ones are red, the first 20 named."""
    drawn, (axis,) = figure(width=6.4, height=4.4)
    for flagged, colour in ((False, BLUE), (True, RED)):
        chosen = [row for row in rows if bool(row.flags) == flagged]
        axis.scatter(
            [model.skill[row.rater] for row in chosen],
            [model.side[row.rater] for row in chosen],
            s=[12 + min(row.votes, 600) / 8 for row in chosen],
            color=colour,
            alpha=0.7,
            linewidths=0,
            label="to look at" if flagged else "nothing to see",
        )
    named = rows if len(rows) <= MOST_NAMES else [row for row in rows if row.flags]
    for row in named[:MOST_NAMES]:
        axis.annotate(
            _name(row.rater),
            (model.skill[row.rater], model.side[row.rater]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=7,
            color=INK,
            parse_math=False,
        )
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.axvline(0, color=MUTED, linewidth=0.8)
    axis.set_xlabel("skill (nats per standard deviation of the gap; below 0: an adversary)")
    axis.set_ylabel("side bias (nats for the first shown)")
    axis.legend(fontsize=8, frameon=False)
    save(drawn, path)


def _name(rater: str) -> str:
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in rater)
    return shown if len(shown) <= SHORT else f"{shown[: SHORT - 1]}…"
