"""What docs/graders.md shows is what the code takes."""

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

from preftune.graders.results import FLAGS
from preftune.graders.similarity import METRICS
from preftune.graders.specs import TYPES, validate


def test_graders_errors_and_rows_of_the_page_are_those_of_the_code(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs/graders.md").read_text()
    kinds = ("yaml", "json", "python")
    found = {kind: re.findall(rf"```{kind}\n(.*?)```", page, re.S) for kind in kinds}
    check, multi = (yaml.safe_load(text) for text in found["yaml"])
    assert validate(multi).name == "careful"
    assert validate({"type": "python", "name": "x", "source": found["python"][0]}).name == "x"
    assert all(f"`{name}`" in page for name in TYPES)
    assert all(f"`{name}`" in page for name in FLAGS if name != "other_error")
    assert all(f"`{name}`" in page for name in METRICS if name[-1] not in "234")
    (tmp_path / "rows.jsonl").write_text(found["json"][0])
    (tmp_path / "grader.yaml").write_text(json.dumps(check))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.py").write_text(found["python"][1])
    runpy.run_path("page.py")
    assert capsys.readouterr().out == "[1.0] Counter()\n"
