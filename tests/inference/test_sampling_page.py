"""docs/sampling.md as a new user follows it: each command runs as printed, in a fresh folder."""

import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.inference.conftest import TEXTS
from tests.responses.chat_server import ChatServer, serving

from preftune.datasets.read import read_responses
from preftune.datasets.write import write_records
from preftune.types import PreferencePair, assistant, make_prompt, user


def test_commands_of_the_page_run_as_printed(
    root: Path,
    tmp_path: Path,
    policy_folder: Path,
    reward_folder: Path,
    run_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (root / "docs" / "sampling.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    text = "".join(block for language, block in blocks if not language).replace("\\\n", " ")
    printed = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("preftune ")]
    here, there, *scores = printed
    monkeypatch.chdir(tmp_path)
    for name, folder in (("sft", policy_folder), ("reward", reward_folder)):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "final").symlink_to(folder)
    prompts = [make_prompt(user(asked)) for asked in TEXTS[:2]]
    write_records(Path("prompts.jsonl"), prompts, format="preftune")
    pair = PreferencePair(
        id="a", prompt=prompts[0], chosen=(assistant("yes"),), rejected=(assistant("no"),)
    )
    write_records(Path("heldout.jsonl"), [pair], format="preftune")
    done = run_cli(*here)
    assert done.code == 0, done.err
    found = read_responses(Path("responses.jsonl"))
    drawn = Counter((r.prompt_id, r.sampling.temperature) for r in found if r.sampling)
    assert drawn == {(prompt.id, t): 4 for prompt in prompts for t in (0.7, 1.0)}
    assert len({r.id for r in found}) == 16
    for command in scores:
        done = run_cli(*command)
        assert done.code == 0, done.err
    monkeypatch.setenv("API_KEY", "not-a-real-one")
    with serving(ChatServer()) as server:
        moved = [server.url if part.startswith("https://") else part for part in there]
        done = run_cli(*moved, "--allow-url", server.url, "--out", "there.jsonl")
    assert done.code == 0, done.err
    assert len(read_responses(Path("there.jsonl"))) == 16
    assert len(scores) == 2
