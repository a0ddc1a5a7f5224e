"""One look for every plot: a figure is drawn by matplotlib without a display and kept as SVG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from preftune.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED, GREY = "#2563eb", "#d97706", "#15803d", "#b91c1c", "#9aa5b1"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#7c3aed", "#0e7490", GREY)


SIDE, TITLE, BELOW = 0.7, 0.3, 0.3  # inches around a panel whose axes have no labels


def figure(
    *,
    columns: int = 1,
    rows: int = 1,
    width: float = 6.4,
    height: float = 3.6,
    fitted: bool = True,
) -> "tuple[Figure, list[Axes]]":
    """Return a figure and its axes in reading order; `width` and `height` are inches in all.

    Its panels are fitted to their labels, which takes as long as drawing them, or have room for a
    title and for the numbers on their axes.
    """
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    if not fitted:
        across, down = width / columns, height / rows
        drawn.subplots_adjust(
            left=SIDE / width,
            right=1 - 0.1 / width,
            top=1 - TITLE / height,
            bottom=BELOW / height,
            wspace=SIDE / (across - SIDE),
            hspace=(TITLE + BELOW) / (down - TITLE - BELOW),
        )
    axes = [drawn.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axis in axes:
        axis.grid(visible=True, color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=MUTED, labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(GRID)
    return drawn, axes


def svg(drawn: "Figure") -> str:
    """Return the figure as an `<svg>` element to put inline; equal data give equal text."""
    with _fixed_ids():
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(drawn: "Figure", path: Path) -> None:
    """Write the figure; the suffix (.svg, .png, .pdf) chooses the format."""
    buffer = io.BytesIO()
    with _fixed_ids():
        kind = path.suffix.lstrip(".")
        metadata = {"Date": None} if kind == "svg" else None
        drawn.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    drawn.set_layout_engine("none")  # laid out once: most of the time goes there
    write_atomic(path, buffer.getvalue())


@contextmanager
def _fixed_ids() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "preftune", "svg.fonttype": "none"}):
        yield
