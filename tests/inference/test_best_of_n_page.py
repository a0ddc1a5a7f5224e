"""docs/best-of-n.md as a new user follows it: each command runs, in a fresh folder."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from tests.inference.conftest import TEXTS
from typer.testing import CliRunner

from preftune.cli import best_of_n
from preftune.datasets.read import read_demonstrations, read_pairs, read_responses
from preftune.datasets.write import write_records
from preftune.types import make_prompt, text_of, user

SMALL = ["--n", "6", "--max-new-tokens", "12"]  # the last one given counts


def run(arguments: list[str]) -> str:
    """Run the command by itself and return what it printed."""
    app = typer.Typer()
    app.callback()(lambda: None)
    best_of_n.register(app)
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_commands_of_the_page_run(
    root: Path,
    tmp_path: Path,
    policy_folder: Path,
    reward_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (root / "docs" / "best-of-n.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (block,) = [text for language, text in blocks if not language]
    printed = block.replace("\\\n", " ").splitlines()
    plain, graded, early = [shlex.split(line)[1:] for line in printed]
    monkeypatch.chdir(tmp_path)
    for name, folder in (("sft", policy_folder), ("reward", reward_folder)):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "final").symlink_to(folder)
    write_records("prompts.jsonl", [make_prompt(user(text)) for text in TEXTS], format="preftune")
    words = ("yes", "no", "wash", "dry")
    rows = [
        {"messages": [{"role": "user", "content": text}], "answer": word}
        for text, word in zip(TEXTS, words, strict=True)
    ]
    Path("rft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"type": "string_check", "name": "says it", "input": "{{sample.output_text}}"}
    grader = {**spec, "operation": "ilike", "reference": "{{item.answer}}"}
    Path("grader.yaml").write_text(json.dumps(grader))
    Path("exact.yaml").write_text(json.dumps({**grader, "operation": "eq"}))

    said = run([*plain, *SMALL, "--gold", "runs/reward/final"])
    assert "best of 6 for 4 prompts: 24 responses drawn" in said
    assert len(read_responses("best.jsonl")) == 4
    found = json.loads(Path("best.report.json").read_text())["rows"]
    assert [row["score"]["mean"] for row in found] == [row["gold"]["mean"] for row in found]
    assert found[0]["score"]["mean"] < found[-1]["score"]["mean"]
    assert found[0]["slowest_tokens"]["mean"] <= found[-1]["slowest_tokens"]["mean"] <= 12
    assert len(read_demonstrations("sft.jsonl")) + said.count("left out") <= 4
    assert read_pairs("dpo.jsonl")

    said = run([*graded, *SMALL, "--gold", "exact.yaml"])
    assert "best of 6 for 4 prompts" in said
    for line in Path("right.scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert {row["score"], row["gold"]} <= {0.0, 1.0}
        assert row["gold"] <= row["score"]
    draws = read_responses("right.draws.jsonl")
    answers = {make_prompt(user(t)).id: w for t, w in zip(TEXTS, words, strict=True)}
    for best in read_responses("right.jsonl"):
        own = [draw for draw in draws if draw.prompt_id == best.prompt_id]
        holding = [draw for draw in own if answers[best.prompt_id] in text_of(draw.messages)]
        assert best == (holding or own)[0]

    said = run([*early, *SMALL, "--reject-at-tokens", "3", "--check-frac", "0.5"])
    assert "measured on 2 prompts drawn in full" in said
    assert "given up early" in said
