"""The README's Python runs as printed; its commands exist; its links lead somewhere."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preftune.cli.reference import commands
from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import PreferencePair, assistant, make_prompt, user

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def pairs() -> list[PreferencePair]:
    return [
        PreferencePair(
            id=f"pair-{n}",
            prompt=make_prompt(user(f"question {n} ?")),
            chosen=(assistant(f"a kind answer to {n} ."),),
            rejected=(assistant(f"no {n} ."),),
        )
        for n in range(32)
    ]


def test_the_readme_dpo_runs_and_starts_at_log_2(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    new_model(
        tmp_path / "runs" / "sft" / "final",
        preset="tiny",
        texts=[f"question {n} ? a kind answer to {n} . no {n} ." for n in range(32)],
        vocab_size=80,
        seed=0,
        tokenizer="words",
    )
    write_records(tmp_path / "pairs.jsonl", pairs(), format="preftune")
    (tmp_path / "example.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    losses = [float(x) for x in ran.stdout.strip(" []\n").split(",")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_command_in_the_docs_exists_with_its_options(page: Path) -> None:
    known = {
        name: {o for p in c.params for o in (*p.opts, *p.secondary_opts)} for name, c in commands()
    }
    blocks = re.findall(r"(?:^|\n)```\w*\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in lines:
        words = line.split("#")[0].split()
        if words[:1] != ["preftune"] or len(words) < 2:
            continue
        name = next((n for n in known if words[: len(n.split())] == n.split()), None)
        assert name is not None, f"{page.name}: {line}"
        for word in words:
            if word.startswith("--"):
                assert word in known[name] | {"--help"}, f"{page.name}: {word} in: {line}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_link_in_the_docs_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} → {target}"
