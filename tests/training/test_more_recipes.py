"""The recipes of reward models, KTO and rankings run as a user would run them."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import (
    PreferencePair,
    RankedList,
    UnpairedRow,
    assistant,
    make_prompt,
    user,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, pairs.jsonl, thumbs.jsonl and rankings.jsonl."""
    folder = tmp_path_factory.mktemp("more-recipes")
    pairs, thumbs, rankings = [], [], []
    for n in range(16):
        prompt = make_prompt(user(f"question {n} ?"))
        good, fair, bad = (
            (assistant(text),) for text in (f"a kind answer to {n} .", f"answer {n} .", f"no {n} .")
        )
        pairs.append(PreferencePair(id=f"p-{n}", prompt=prompt, chosen=good, rejected=bad))
        thumbs.append(
            UnpairedRow(
                id=f"u-{n}", prompt=prompt, response=bad if n % 2 else good, desirable=n % 2 == 0
            )
        )
        rankings.append(
            RankedList(id=f"r-{n}", prompt=prompt, responses=(good, fair, bad), ranks=(1, 2, 3))
        )
    texts = [f"question {n} ? a kind answer to {n} . no" for n in range(16)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=60, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", pairs, format="preftune")
    write_records(folder / "thumbs.jsonl", thumbs, format="preftune")
    write_records(folder / "rankings.jsonl", rankings, format="preftune")
    return folder


@pytest.mark.parametrize(
    ("recipe", "data", "first", "within"),
    [
        ("kto", ["--data", "thumbs.jsonl", "--lr", "1e-3"], 0.5, 1e-4),
        ("reward", ["--pairs", "pairs.jsonl"], math.log(2), 0.4),
        ("reward_listwise", ["--data", "rankings.jsonl"], math.log(6), 0.5),
    ],
)
def test_further_recipe_runs_starts_where_it_must_and_learns(
    folder: Path, tmp_path: Path, recipe: str, data: list[str], first: float, within: float
) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--model", "base", *data),
            *("--steps", "8", "--out", str(tmp_path / "out")),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", ran.stdout)]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(first, abs=within)
    assert losses[-1] < losses[0]
    assert list((tmp_path / "out").glob("*.safetensors"))
