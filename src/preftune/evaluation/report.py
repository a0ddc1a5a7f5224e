"""The report: one HTML page that can be forwarded, printed and read without a network.

No script, no font, no image from elsewhere; the page forbids them itself (Content-Security-Policy).
All text is escaped, control characters are made visible: model output is hostile text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from preftune import __version__
from preftune.errors import DataError
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.gate import GateReport
from preftune.evaluation.marked import differences
from preftune.evaluation.measures import Measure
from preftune.files import write_atomic
from preftune.text import visible_page
from preftune.types import Comparison, text_of

TEMPLATE = Path(__file__).with_name("report.html.jinja")
FORBIDDEN_IN_SVG = re.compile(r"<\s*(script|foreignobject|iframe)|\son\w+\s*=", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of texts; every row has as many cells as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        if odd := [row for row in self.rows if len(row) != len(self.header)]:
            raise DataError(
                f"table {self.caption!r}: a row has {len(odd[0])} cells, the header "
                f"{len(self.header)}. Give one cell per column."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawing as an `<svg>` element, such as `preftune.plots.svg` returns."""

    svg: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.svg.lstrip().startswith("<svg") or FORBIDDEN_IN_SVG.search(self.svg):
            raise DataError(
                f"plot {self.caption!r}: not a plain <svg> element. Draw it with preftune.plots."
            )

    def __html__(self) -> str:
        """Return the drawing itself: the one thing on the page that is not escaped."""
        return self.svg


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One more block of the report: training, reward model, data, whatever there is to tell."""

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One prompt answered before and after; the words that differ are marked."""

    prompt: str
    before: str
    after: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything on the page. Texts are plain text; none of them is read as HTML."""

    title: str
    summary: str = ""
    evaluation: Evaluation
    gate: GateReport | None = None
    examples: tuple[Example, ...] = ()
    sections: tuple[Section, ...] = ()
    caveats: tuple[str, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One line of a forest plot; positions in percent of the axis."""

    label: str
    shown: str
    detail: str
    left: float
    width: float
    dot: float
    strong: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """Figures with their intervals under one another, on one axis with a reference line."""

    title: str
    hint: str
    bars: tuple[Bar, ...]
    zero: float  # where the reference line stands, in percent
    ticks: tuple[tuple[float, str], ...]


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, whole or not at all."""
    write_atomic(path, render_report(data))


def render_report(data: ReportData) -> str:
    """Return the page as HTML; equal data give equal text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible_page
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    evaluation = data.evaluation
    return page.render(
        data=data,
        evaluation=evaluation,
        forests=[forest for forest in (win_forest(evaluation), check_forest(evaluation)) if forest],
        figures=list(key_figures(evaluation)),
        others=[measure_row(measure) for measure in evaluation.measures],
        examples=[
            (e, *differences(visible_page(e.before), visible_page(e.after))) for e in data.examples
        ],
        provenance={**evaluation.provenance, **data.provenance, "preftune": __version__},
    )


def draw_examples(
    comparisons: Sequence[Comparison], evaluation: Evaluation, *, n: int, seed: int = 0
) -> tuple[Example, ...]:
    """Return `n` comparisons of the two systems drawn by chance, or all where there are fewer.

    By chance, so that nobody picks the pretty ones; equal seeds draw the same.
    """
    found = []
    for comparison in comparisons:
        said = {r.generator: text_of(r.messages) for r in comparison.responses}
        if evaluation.candidate in said and evaluation.baseline in said:
            asked = "\n\n".join(m.content for m in comparison.prompt.messages if m.role == "user")
            found.append(
                Example(
                    prompt=asked,
                    before=said[evaluation.baseline],
                    after=said[evaluation.candidate],
                )
            )
    return tuple(Random(seed).sample(found, min(n, len(found))))


def key_figures(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Yield (label, figure, detail) of what a hurried reader must see."""
    if rate := evaluation.win_rate:
        part = rate.overall
        yield (
            "Win rate",
            f"{100 * part.value:.0f} %",
            f"{100 * part.low:.0f}–{100 * part.high:.0f} %, {part.prompts} prompts, ties half",
        )
    for check in evaluation.checks:
        overall = check.overall
        d, before = overall.difference, f"before {100 * overall.baseline_frac:.1f} %"
        yield (
            f"{check.name}: passed",
            f"{100 * overall.candidate_frac:.1f} %",
            f"{before}; {d.lost} lost, {d.gained} gained of {d.n}",
        )
    if evaluation.win_rate and (ratio := evaluation.win_rate.length_ratio):
        yield "Length", f"× {ratio.value:.2f}", ratio.note


def measure_row(measure: Measure) -> tuple[str, str, str, str]:
    """Return name, value, interval and note of a measure as texts."""
    if measure.unit == "frac":
        scale, unit = 100.0, " %"
    else:
        scale, unit = 1.0, f" {measure.unit}" if measure.unit else ""
    interval = "–"
    if measure.low is not None and measure.high is not None:
        interval = f"{scale * measure.low:.3g} to {scale * measure.high:.3g}"
    return measure.name, f"{scale * measure.value:.3g}{unit}", interval, measure.note


def win_forest(evaluation: Evaluation) -> Forest | None:
    """Return the win rate, overall, at equal length and per slice, on an axis from 0 to 100 %."""
    rate = evaluation.win_rate
    if rate is None:
        return None
    overall = rate.overall
    rows = [("All prompts", overall.value, overall.low, overall.high, f"{overall.prompts} prompts")]
    if (equal := rate.length_controlled) and equal.low is not None and equal.high is not None:
        rows.append(("At equal length", equal.value, equal.low, equal.high, f"{equal.n} prompts"))
    rows += [(s.tag, s.value, s.low, s.high, f"{s.prompts} prompts") for s in rate.slices]
    bars = tuple(
        Bar(
            label=label,
            shown=f"{100 * value:.0f} %",
            detail=f"{100 * low:.0f}–{100 * high:.0f} %, {detail}",
            left=100 * low,
            width=100 * (high - low),
            dot=100 * value,
            strong=place == 0,
        )
        for place, (label, value, low, high, detail) in enumerate(rows)
    )
    return Forest(
        title=f"How often {rate.candidate} beats {rate.baseline}",
        hint="95 % intervals, prompts drawn with all their verdicts; the line is no difference.",
        bars=bars,
        zero=50.0,
        ticks=tuple((float(x), f"{x} %") for x in (0, 25, 50, 75, 100)),
    )


def check_forest(evaluation: Evaluation) -> Forest | None:
    """Return the change in pass rate of every check and slice, in points, around 0."""
    parts = [
        (f"{check.name} · {part.tag}" if part.tag else check.name, part, not part.tag)
        for check in evaluation.checks
        for part in (check.overall, *check.slices)
    ]
    if not parts:
        return None
    reach = max(0.01, *(max(abs(p.difference.low), abs(p.difference.high)) for _, p, _ in parts))

    def at(x: float) -> float:
        return 50 + 50 * x / reach

    bars = tuple(
        Bar(
            label=label,
            shown=_points(part.difference.difference),
            detail=f"{part.difference.lost} lost, {part.difference.gained} gained "
            f"of {part.difference.n}",
            left=at(part.difference.low),
            width=at(part.difference.high) - at(part.difference.low),
            dot=at(part.difference.difference),
            strong=strong,
        )
        for label, part, strong in parts
    )
    return Forest(
        title="What must not break: change in pass rate, points",
        hint="The ends are one-sided 95 % bounds, clustered by prompt; left of the line is worse.",
        bars=bars,
        zero=50.0,
        ticks=_ticks(reach),
    )


def _ticks(reach: float) -> tuple[tuple[float, str], ...]:
    return tuple((50 + 50 * x / reach, _points(x)) for x in (-reach, 0.0, reach))


def _points(share: float) -> str:
    shown = f"{100 * share:+.1f}"
    return "0" if float(shown) == 0 else shown.replace("-", "−")
