"""The dataset card: what the data is, in Markdown, without a word of the data itself."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from preftune.datasets.checks import Finding
from preftune.datasets.figures import inspection_figure
from preftune.datasets.inspect import Inspection, summarise, summary
from preftune.files import write_atomic
from preftune.plots import save

LENGTH_COLUMNS = ("characters", "n", "mean", "median", "95 % below", "longest")
FINDING_COLUMNS = ("kind", "rows", "lines", "what", "what to do")
MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~$!"} | {"\n": " "})


def write_inspection(found: Inspection, out: Path) -> list[Path]:
    """Write inspect.svg, inspect.png and card.md into the folder `out`; return their paths."""
    drawn = inspection_figure(found)
    pictures = [out / "inspect.svg", out / "inspect.png"]
    for picture in pictures:
        save(drawn, picture)
    write_atomic(out / "card.md", card(found, picture="inspect.svg"))
    return [*pictures, out / "card.md"]


def card(found: Inspection, *, parts: Sequence[Sequence[str]] = (), picture: str = "") -> str:
    """Return the card of a dataset as Markdown.

    Args:
        found: the inspection of the whole file.
        parts: a table of the parts it was split into, its header first.
        picture: file name of the plot beside the card.
    """
    text = [f"# {escaped(found.source)}", "", *table([("", ""), *summary(found)])]
    if picture:
        text += ["", f"![Lengths, length bias, strengths and findings]({picture})"]
    if parts:
        text += ["", "## Parts", "", *table(parts)]
    if found.lengths:
        text += ["", "## Lengths", "", *table([LENGTH_COLUMNS, *length_rows(found)])]
    text += ["", "## Checks", ""]
    if found.findings:
        text += table([FINDING_COLUMNS, *map(finding_row, found.findings)])
    else:
        text.append("Nothing to look at.")
    return "\n".join(text) + "\n"


def length_rows(found: Inspection) -> list[tuple[str, ...]]:
    """Return one row of text per kind of length, in the order of `LENGTH_COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for name, lengths in found.lengths.items():
        s = summarise(lengths)
        figures = (f"{s.n:,}", f"{s.mean:,.1f}", f"{s.median:,.0f}", f"{s.p95:,.0f}")
        rows.append((name, *figures, f"{s.longest:,}"))
    return rows


def finding_row(finding: Finding) -> tuple[str, ...]:
    """Return one row of text per finding, in the order of `FINDING_COLUMNS`."""
    lines = shortened(finding.lines)
    return finding.kind, f"{len(finding.lines):,}", lines, finding.what, finding.fix


def shortened(lines: Sequence[int], *, most: int = 6) -> str:
    """Return the first line numbers, and how many more there are."""
    more = f" and {len(lines) - most:,} more" if len(lines) > most else ""
    return ", ".join(map(str, lines[:most])) + more


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table, the first row its header."""
    header, *body = rows
    return [_row(header), "|" + " --- |" * len(header), *map(_row, body)]


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no line break."""
    printable = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    return printable.translate(MARKDOWN)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escaped, cells)) + " |"
