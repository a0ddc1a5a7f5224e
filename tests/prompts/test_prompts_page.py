"""docs/prompts.md is what a reader sees: its commands run, and print what it says."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.prompts.logs import prompts_in

from preftune.prompts.recognise import Span
from preftune.prompts.redact_file import recogniser_named


def blocks(page: str) -> list[tuple[str, str]]:
    """The page's code as (language, text)."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def test_commands_of_the_page_run_on_the_care_desk_log_and_print_what_it_shows(
    root: Path, tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks((root / "docs" / "prompts.md").read_text())
    (make_log, *_) = [text for language, text in found if language == "python"]
    subprocess.run([sys.executable, "-c", make_log], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    plain = [text.rstrip("\n") for language, text in found if not language]
    commands = 0
    for text, shown in zip(plain, [*plain[1:], ""], strict=True):
        if text.startswith("preftune "):
            done = run_cli(*shlex.split(text.replace("\\\n", " "))[1:])
            assert done.code == 0, done.err
            assert shown.startswith("preftune ") or shown in ("", done.out.rstrip("\n")), text
            commands += 1
    assert commands == 5
    assert [text for text in plain if text.startswith("{")] == [
        Path("unique.groups.jsonl").read_text().splitlines()[0]
    ]
    chosen, held = prompts_in(Path("label.jsonl")), prompts_in(Path("label.held-out.jsonl"))
    more = {p.id for p in prompts_in(Path("more.jsonl"))}
    assert not {p.id for p in held} & ({p.id for p in chosen} | more)
    made = [path for path in tmp_path.iterdir() if not path.name.startswith(("raw", "log"))]
    assert len(made) == 11
    assert not [path.name for path in made if "Ana" in path.read_text()]


def test_recogniser_of_the_page_can_be_plugged_in(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks((root / "docs" / "prompts.md").read_text())
    (*_, code) = [text for language, text in found if language == "python"]
    (tmp_path / "my_names.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    find = recogniser_named("my_names:find")
    assert list(find("ask Bob")) == [Span(start=4, end=7, kind="NAME")]
