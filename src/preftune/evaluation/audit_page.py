"""One audit, one folder: audit.html, audit.json, card.md, plots; and the run that makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from preftune import __version__
from preftune.datasets.audit import (
    FINDING_COLUMNS,
    Audit,
    about,
    audit_material,
    finding_rows,
    refuse_itself,
)
from preftune.datasets.audit_influence import without_raters
from preftune.datasets.audit_material import Material, read_material
from preftune.datasets.audit_parts import Bars
from preftune.datasets.card import card, table
from preftune.datasets.inspect import inspect_rows
from preftune.datasets.write import dataset_hash, write_records
from preftune.evaluation.report import FORBIDDEN_IN_SVG, Plot
from preftune.files import make_folder, write_atomic, write_json
from preftune.plots import BLUE, INK, MUTED, ORANGE, figure, svg
from preftune.text import visible_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from preftune.evaluation.audit_models import AuditModelSettings, TrainReward

TEMPLATE = Path(__file__).with_name("audit.html.jinja")
WIDTH, ROW, FRAME = 7.2, 0.28, 1.1  # inches: of a plot, of one of its rows, of title and axis
LONGEST_LABEL = 40  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """What to audit and where to write it."""

    data: Path
    out: Path
    judgments: Path | None = None
    comparisons: Path | None = None
    against: tuple[Path, ...] = ()
    format: str | None = None
    without: tuple[str, ...] = field(default=())  # raters to rebuild the dataset without


def run_audit(
    request: AuditRequest,
    *,
    models: "AuditModelSettings | None" = None,
    train: "TrainReward | None" = None,
) -> Audit:
    """Audit a file, write the folder `request.out`, and return what was found.

    Args:
        request: what to audit.
        models: the part that needs a model; None leaves it out.
        train: trains a reward model; needed with `models`.

    Raises:
        PreftuneError: a file, rater or model cannot be used as asked.
    """
    refuse_itself(request.data, request.against)
    material = read_material(
        request.data,
        judgments=request.judgments,
        comparisons=request.comparisons,
        format=request.format,
    )
    make_folder(request.out)
    found = audit_material(material, against=request.against)
    if models is not None and train is not None:
        from preftune.evaluation.audit_models import model_sections

        more = model_sections(material.pairs, models, out=request.out, train=train)
        found = replace(found, sections=(*found.sections, *more))
    if request.without:
        rebuilt = without_raters(material, request.without)
        write_records(request.out / "rebuilt.jsonl", rebuilt)
        found = replace(found, rebuilt_hash=dataset_hash(rebuilt), rebuilt_without=request.without)
    write_audit(found, material, request.out)
    return found


def write_audit(found: Audit, material: Material, out: Path) -> None:
    """Write audit.html, audit.json, card.md and one plot per figure into the folder `out`."""
    bars = [one for section in found.sections for one in section.bars]
    drawn = {one.name: svg(interval_figure(one)) for one in bars}
    for name, plot in drawn.items():
        write_atomic(out / "plots" / f"{name}.svg", plot)
    write_atomic(out / "audit.html", render_audit(found, drawn))
    facts = {"verdict": found.verdict, "exit_code": found.exit_code, "preftune": __version__}
    write_json(out / "audit.json", facts | asdict(found))
    write_atomic(out / "card.md", audit_card(found, material))


def render_audit(found: Audit, drawn: Mapping[str, str]) -> str:
    """Return the page as HTML; equal audits give equal text.

    Args:
        found: the audit.
        drawn: its plots as `<svg>` elements, by name.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible_page
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    counts = dict.fromkeys(("stop", "look", "ok"), 0)
    for finding in found.findings:
        counts[finding.verdict] += 1
    return page.render(
        audit=found,
        about=about(found),
        counts=counts,
        header=FINDING_COLUMNS,
        findings=finding_rows(found),
        plots={name: Plot(svg=plot) for name, plot in drawn.items()},
        version=__version__,
    )


def audit_card(found: Audit, material: Material) -> str:
    """Return the dataset card as Markdown: what the file holds, and what the audit says of it."""
    inspection = inspect_rows(
        material.rows,
        source=found.source,
        format=found.format,
        hashed=found.dataset_hash,
        known=material.known,
    )
    text = [card(inspection), "## Audit", "", f"Verdict: {found.verdict}", ""]
    text += table([("", ""), *about(found)])
    text += ["", *table([FINDING_COLUMNS, *finding_rows(found)])]
    if found.notes:
        text += ["", *(f"- {line}" for line in found.notes)]
    return "\n".join(text) + "\n"


def interval_figure(bars: Bars) -> "Figure":
    """Return the figures with their intervals, one under another, beside the reference."""
    drawn, (axes,) = figure(width=WIDTH, height=FRAME + ROW * len(bars.rows))
    for place, (_, value, low, high) in enumerate(bars.rows):
        known = low < high
        if known:
            axes.plot((low, high), (place, place), color=BLUE, linewidth=3, alpha=0.35)
        axes.plot(value, place, "o" if known else "D", color=BLUE if known else MUTED, markersize=5)
    axes.axvline(bars.reference, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_title(bars.title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(bars.unit, fontsize=8, color=MUTED)
    axes.set_yticks(range(len(bars.rows)), _labels([row[0] for row in bars.rows]))
    axes.set_ylim(len(bars.rows) - 0.5, -0.5)  # the first on top
    return drawn


def _labels(names: Sequence[str]) -> list[str]:
    """Return names as a drawing may hold them: no formula, nothing hidden, nothing like code."""
    tame = (n.replace("=", "⟨U+003D⟩") if FORBIDDEN_IN_SVG.search(n) else n for n in names)
    shown = (visible_page(name.replace("\n", " ")).replace("$", r"\$") for name in tame)
    return [
        name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…" for name in shown
    ]
