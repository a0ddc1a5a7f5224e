import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HH = "hh-harmless/harmless-base-test.jsonl.gz"


def shown(output: str) -> set[str]:
    """The lines of an output, blank ends and the names of written files left out."""
    return {line.rstrip() for line in output.split("\n") if not line.startswith("wrote")}


def test_the_figures_in_the_docs_are_what_the_commands_print(
    root: Path, shared_data: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    source, hh, parts = shared_data / HH, tmp_path / "hh.jsonl", tmp_path / "parts"
    inspected = run_cli("data", "inspect", source)
    assert run_cli("data", "import", source, "--skip-bad", "--out", hh).code == 0
    split = run_cli("data", "split", hh, "--out", parts, "--validation", 0.1, "--by", "first-turn")
    checked = run_cli("data", "check", parts / "train.jsonl", "--against", parts / "test.jsonl")
    assert (inspected.code, split.code, checked.code) == (0, 0, 1)
    printed = shown(inspected.out) | shown(split.out) | shown(checked.out)
    assert printed - shown((root / "docs/data.md").read_text()) == set()


def test_the_python_in_the_docs_runs(root: Path, tmp_path: Path) -> None:
    rows = (f'{{"prompt": "q{n}", "chosen": "yes sir {n}", "rejected": "no"}}' for n in range(20))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    code = (root / "docs/data.md").read_text().split("```python\n")[1].split("```")[0]
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True)
    assert printed == "0.0 [9, 9, 9]\n[]\n"
