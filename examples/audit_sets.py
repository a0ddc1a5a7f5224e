"""Import and audit the real sets: the table of docs/audit.md, one line per set.

Example: python examples/audit_sets.py DATA --only oasst-rank --only llmfao
"""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from preftune.datasets.audit import Audit, audit_material
from preftune.datasets.audit_material import material_of
from preftune.datasets.audit_parts import AuditFinding
from preftune.datasets.scanned import Scanned

SETS = (
    "arena-verdicts",
    "crag25",
    "gsm8k-solutions",
    "hh-harmless",
    "hhh",
    "llmbar",
    "llmfao",
    "oasst-rank",
    "pandalm",
    "squality-listwise",
    "tau-airline",
    "tulu1-human",
    "ukp-convarg",
)
HEADER = "| set | pairs on prompts | longer wins | alpha, people | exit code | found |"
RULE = "|---|---|---|---|---|---|"
QUIET = {"length", "refused", "agreement"}  # told in columns of their own, or always there


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    only: Annotated[list[str] | None, typer.Option(help="One set; may be given again.")] = None,
) -> None:
    """Print the table."""
    print(HEADER, RULE, sep="\n")
    for name in only or SETS:
        module = importlib.import_module(f"import_{name.replace('-', '_')}")
        print(line(name, audited(name, list(module.records(folder / name)))))


def audited(name: str, rows: list[Scanned]) -> Audit:
    """Return the audit of a set's usable rows, as of the file its importer writes."""
    return audit_material(material_of([row for row in rows if row.usable], source=name))


def line(name: str, found: Audit) -> str:
    """Return the line of a set: its figures, and what is to be looked at, the worst first."""
    length = _first(found, "length")
    people = [f for f in found.findings if f.kind == "agreement" and " human: " in f.what]
    alphas = {f.size.removeprefix("alpha ") for f in people}
    loud = [f for f in found.findings if f.verdict != "ok" and f.kind not in QUIET]
    told = [
        f"**{f.kind}**" if f.verdict == "stop" else f.kind
        for f in sorted(loud, key=lambda f: f.verdict != "stop")
    ]
    cells = (
        name,
        f"{found.pairs:,} on {found.prompts:,}",
        _length(length) if length else "no texts" if not found.pairs else "no length",
        next(iter(alphas), "–") if len(alphas) < 2 else f"{len(people)} dimensions",
        str(found.exit_code),
        ", ".join(dict.fromkeys(told)) or "nothing",
    )
    return f"| {' | '.join(cells)} |"


def _first(found: Audit, kind: str) -> AuditFinding | None:
    return next((f for f in found.findings if f.kind == kind), None)


def _length(length: AuditFinding) -> str:
    word = " MORE" if "MORE" in length.what else " LESS" if "LESS" in length.what else ""
    return f"{length.size}{word}"


if __name__ == "__main__":
    typer.run(main)
