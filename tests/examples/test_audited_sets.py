"""What the audit says of the real sets: the table in the docs, and the facts that are known."""

from pathlib import Path

import pytest
from tests.examples.verdicts import Load

from audit_sets import audited, line
from preftune.datasets.audit import Audit

TOLD = (  # the slowest, ukp-convarg and crag25, are left to the command
    "gsm8k-solutions",
    "hh-harmless",
    "hhh",
    "llmbar",
    "oasst-rank",
    "pandalm",
    "squality-listwise",
    "tau-airline",
    "tulu1-human",
)
SIGNS = {
    "oasst-rank": "MORE",
    "llmfao": "LESS",
    "hh-harmless": "LESS",
    "pandalm": "MORE",
    "tulu1-human": "MORE",
}


def told(found: Audit, kind: str) -> list[str]:
    return [finding.what for finding in found.findings if finding.kind == kind]


@pytest.mark.parametrize("name", TOLD)
def test_the_line_in_the_docs_is_what_the_audit_says(name: str, imported: Load, root: Path) -> None:
    found = audited(name, imported(name))
    assert line(name, found) in (root / "docs/audit.md").read_text().splitlines()
    if name in SIGNS:
        assert f"wins {SIGNS[name]} often" in told(found, "length")[0]
    assert found.exit_code == 0


def test_llmfao_has_the_known_alpha_and_a_judge_that_favours_the_first(
    imported: Load, root: Path
) -> None:
    found = audited("llmfao", imported("llmfao"))
    assert line("llmfao", found) in (root / "docs/audit.md").read_text().splitlines()
    people = next(f for f in found.findings if f.kind == "agreement")
    assert people.value == pytest.approx(0.304490, abs=1e-6)
    assert f"wins {SIGNS['llmfao']} often" in told(found, "length")[0]
    assert "gpt-3.5-turbo-instruct" in told(found, "rater_side")[0]


def test_arena_flags_two_judges_in_opposite_directions_and_no_people(
    imported: Load, root: Path
) -> None:
    found = audited("arena-verdicts", imported("arena-verdicts"))
    assert line("arena-verdicts", found) in (root / "docs/audit.md").read_text().splitlines()
    (flagged,) = told(found, "rater_side")
    assert "claude-3-opus-20240229 39.6 %" in flagged
    assert "gpt-3.5-turbo 86.4 %" in flagged
    assert "arena-visitor" not in flagged
    people = next(f for f in found.findings if "human raters" in f.what)
    assert people.verdict == "ok"
