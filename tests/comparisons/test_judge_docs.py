"""What docs/judges.md prints is what its commands print."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Ran

from preftune.datasets.write import write_records


def block(page: str, opening: str) -> str:
    """Return the one fenced block that begins so."""
    blocks = re.findall(r"```\w*\n(.*?)```", page, flags=re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(opening)]
    return str(found)


def test_the_replay_in_the_docs_prints_what_stands_there(
    root: Path,
    shared_data: Path,
    tmp_path: Path,
    run_cli: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (root / "docs/judges.md").read_text()
    monkeypatch.chdir(tmp_path)
    records = importlib.import_module("import_llmbar").records(shared_data / "llmbar")
    write_records(Path("llmbar.jsonl"), [found.record for found in records], format="preftune")
    Path("recorded.yaml").write_text(block(page, "name: instruction\n"))
    command = block(page, "preftune judge replay llmbar.jsonl").replace("\\\n", " ")
    ran = run_cli(*shlex.split(command)[1:])
    assert (ran.code, ran.err) == (0, "")
    expected = block(page, "to come: 1560 requests")
    assert [line.rstrip() for line in ran.out.splitlines()] == expected.splitlines()
