"""The examples of docs/formats.md are what they claim to be."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preftune.datasets import scan
from preftune.datasets.formats.table import NAMES

EXAMPLES = [name for name in NAMES if name != "parquet"]


def section(root: Path, name: str) -> str:
    page = (root / "docs" / "formats.md").read_text(encoding="utf-8")
    return page.split(f"\n## {name}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_detected_and_every_row_usable(name: str, root: Path, tmp_path: Path) -> None:
    found = re.search(r"```(?:json|csv)\n(.*?)```", section(root, name), re.DOTALL)
    assert found
    path = tmp_path / "rows"
    path.write_text(found.group(1), encoding="utf-8")
    opened = scan(path)
    rows = list(opened.rows)
    assert opened.format == name
    assert len(rows) == 2
    assert all(row.usable and not row.problems for row in rows)


def test_every_format_has_its_row_in_the_table(root: Path) -> None:
    page = (root / "docs" / "formats.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == list(NAMES)


def test_python_example_runs(root: Path, tmp_path: Path) -> None:
    example = re.search(r"```json\n(.*?)```", section(root, "trl"), re.DOTALL)
    code = re.search(r"```python\n(.*?)```", section(root, "In Python"), re.DOTALL)
    assert example
    assert code
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress(example.group(1).encode()))
    ran = [sys.executable, "-c", code.group(1)]
    printed = subprocess.check_output(ran, cwd=tmp_path, text=True)
    assert printed == "2 {}\n1 True []\n2 True []\n"
