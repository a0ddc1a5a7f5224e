"""The audit of a preference file: everything that should be known before a model learns from it.

`read_material` → one section each: rows, agreement, raters, style, copies, leaks, noise, poison.
What needs a model (`evaluation/audit_models.py`) adds sections of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from preftune.datasets.audit_copies import copies_section, leak_section
from preftune.datasets.audit_influence import influence_section
from preftune.datasets.audit_material import Material, read_material
from preftune.datasets.audit_noise import vote_noise
from preftune.datasets.audit_parts import (
    AuditFinding,
    AuditSection,
    Verdict,
    count_finding,
    worst,
)
from preftune.datasets.audit_raters import agreement_section, rater_section
from preftune.datasets.audit_style import style_section
from preftune.datasets.checks import find_problems
from preftune.datasets.write import dataset_hash
from preftune.errors import DataError
from preftune.progress import progress

FINDING_COLUMNS = ("verdict", "kind", "size", "what", "what to do")


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """All that the audit of one file found."""

    source: str
    format: str
    dataset_hash: str  # of the usable records, in order
    rows: int
    usable: int
    pairs: int
    prompts: int  # different ones among the pairs
    votes: int
    sections: tuple[AuditSection, ...]
    notes: tuple[str, ...] = ()
    rebuilt_hash: str = ""  # of the dataset without the raters left out
    rebuilt_without: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[AuditFinding, ...]:
        """The findings of all sections, in their order."""
        return tuple(finding for section in self.sections for finding in section.findings)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        return worst(self.findings)

    @property
    def exit_code(self) -> int:
        """0: nothing stops the training. 1: a finding says stop."""
        return int(self.verdict == "stop")


def audit_material(material: Material, *, against: Sequence[Path] = ()) -> Audit:
    """Return the audit of what was read, without any model.

    Args:
        material: what `read_material` returned.
        against: files that must share nothing with it, such as its test set.

    Raises:
        DataError: a file of `against` cannot be used.
    """
    parts: tuple[Callable[[], AuditSection], ...] = (
        lambda: rows_section(material),
        lambda: agreement_section(material),
        lambda: rater_section(material),
        lambda: style_section(material),
        lambda: copies_section(material),
        lambda: leak_section(material, against),
        lambda: vote_noise(material),
        lambda: influence_section(material),
    )
    sections = []
    with progress("audit", len(parts)) as advance:
        for part in parts:
            sections.append(part())
            advance(note=sections[-1].title)
    usable = [row.record for row in material.rows if row.usable and row.record is not None]
    return Audit(
        source=material.source,
        format=material.format,
        dataset_hash=dataset_hash(usable),
        rows=len(material.rows),
        usable=len(usable),
        pairs=len(material.pairs),
        prompts=len({lined.prompt for lined in material.pairs}),
        votes=len(material.ballots),
        sections=tuple(sections),
        notes=material.notes,
    )


def audit_file(
    path: Path,
    *,
    judgments: Path | None = None,
    comparisons: Path | None = None,
    against: Sequence[Path] = (),
    format: str | None = None,
) -> Audit:
    """Return the audit of a file without any model; see `read_material` for what it may hold.

    Raises:
        DataError: a file cannot be read, prefers nothing, or `against` names the file itself.
    """
    refuse_itself(path, against)
    material = read_material(path, judgments=judgments, comparisons=comparisons, format=format)
    return audit_material(material, against=against)


def refuse_itself(path: Path, against: Sequence[Path]) -> None:
    """Raise `DataError` when a held-out file is the audited one."""
    for other in against:
        if other.resolve() == path.resolve():
            raise DataError(f"{other}: the same file as the one audited. Give another --against.")


def rows_section(material: Material) -> AuditSection:
    """Return what reading said of the rows: unusable ones stop, odd ones are to be looked at."""
    refused = {row.line for row in material.rows if not row.usable}
    made = [
        count_finding(
            found.kind,
            found.lines,
            len(material.rows),
            what=found.what,
            verdict="stop" if refused.intersection(found.lines) else "look",
            fix=found.fix,
        )
        for found in find_problems(material.rows)
    ]
    if not refused:
        nothing = "Rows that cannot be used"
        made.append(
            count_finding("refused", (), len(material.rows), what=nothing, verdict="stop", fix="")
        )
    return AuditSection(title="Rows", findings=tuple(made))


def finding_rows(audit: Audit) -> list[tuple[str, ...]]:
    """Return one row of text per finding, in the order of `FINDING_COLUMNS`, the worst first."""
    ordered = sorted(audit.findings, key=lambda found: -("ok", "look", "stop").index(found.verdict))
    return [(f.verdict, f.kind, f.size, f.what, f.fix) for f in ordered]


def about(audit: Audit) -> list[tuple[str, str]]:
    """Return what was audited as (label, value) lines; terminal, card and page show the same."""
    lines = [
        ("file", f"{audit.source} (format {audit.format})"),
        ("rows", f"{audit.rows:,}, of them {audit.usable:,} usable"),
        ("pairs", f"{audit.pairs:,} on {audit.prompts:,} prompts"),
        ("votes", f"{audit.votes:,}"),
        ("dataset hash", audit.dataset_hash),
    ]
    if audit.rebuilt_hash:
        without = ", ".join(audit.rebuilt_without)
        lines.append((f"rebuilt without {without}", f"rebuilt.jsonl, hash {audit.rebuilt_hash}"))
    return lines
