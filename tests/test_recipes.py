"""Each recipe runs as a user would run it: the first loss known, less at the end."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import Demonstration, PreferencePair, assistant, make_prompt, user

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    rows = [
        PreferencePair(
            id=f"pair-{n}",
            prompt=make_prompt(user(f"question {n} ?")),
            chosen=(assistant(f"a kind answer to {n} ."),),
            rejected=(assistant(f"no {n} ."),),
        )
        for n in range(16)
    ]
    texts = [m.content for r in rows for m in (*r.prompt.messages, *r.chosen, *r.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=60, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", rows, format="preftune")
    chats = [Demonstration(id=r.id, prompt=r.prompt, response=r.chosen) for r in rows]
    write_records(folder / "chats.jsonl", chats, format="preftune")
    return folder


@pytest.mark.parametrize(
    ("recipe", "data", "first"),
    [
        ("dpo", ["--pairs", "pairs.jsonl", "--lr", "1e-3"], (math.log(2), 1e-4)),
        # near log(1 + e^.5), and near log V + .1 log 2: a fresh model is close to uniform
        ("simpo", ["--pairs", "pairs.jsonl", "--lr", "1e-3"], (math.log1p(math.exp(0.5)), 0.4)),
        ("orpo", ["--pairs", "pairs.jsonl", "--lr", "1e-3"], (math.log(30) + 0.07, 1.5)),
        ("reward", ["--pairs", "pairs.jsonl"], (math.log(2), 0.4)),
        ("sft", ["--data", "chats.jsonl"], (math.log(30), 1.5)),
    ],
)
def test_recipe_runs_starts_where_it_must_and_learns(
    world: Path, tmp_path: Path, recipe: str, data: list[str], first: tuple[float, float]
) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--model", "base", *data),
            *("--steps", "8", "--out", str(tmp_path / "out")),
        ],
        cwd=world,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", ran.stdout)]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(first[0], abs=first[1])
    assert losses[-1] < losses[0]
    assert list((tmp_path / "out").glob("*.safetensors"))


@pytest.fixture(scope="module")
def reward(world: Path) -> Path:
    """A reward model that likes kind answers."""
    from preftune.engine.settings import OptimizerSettings
    from preftune.training import reward
    from preftune.training.method_settings import RewardSettings
    from preftune.training.settings import RunSettings

    return reward.train(
        RewardSettings(
            model=str(world / "base"),
            data=world / "pairs.jsonl",
            optimizer=OptimizerSettings(lr=1e-3, batch_size=8, epochs=3.0),
            run=RunSettings(out=world / "reward", threads=1),
        )
    )


def test_best_of_n_writes_the_best_and_its_curve_rises(
    world: Path, reward: Path, tmp_path: Path
) -> None:
    flags = ("--model", "base", "--prompts", "pairs.jsonl", "--reward", str(reward))
    sizes = ("--n", "4", "--max-new-tokens", "8", "--out", str(tmp_path / "best.jsonl"))
    ran = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "best_of_n.py"), *flags, *sizes],
        cwd=world,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    scores = [float(x) for x in re.findall(r"score +(-?\d+\.\d+)", ran.stdout)]
    assert len(scores) == 4
    assert scores[-1] > scores[0]
    assert len((tmp_path / "best.jsonl").read_text().splitlines()) == 16


@pytest.mark.parametrize("recipe", ["rloo", "ppo", "online_dpo"])
def test_a_recipe_that_draws_its_own_responses_raises_their_reward(
    world: Path, reward: Path, tmp_path: Path, recipe: str
) -> None:
    flags = ("--model", "base", "--prompts", "pairs.jsonl", "--reward", str(reward))
    sizes = ("--steps", "8", "--max-new-tokens", "8", "--lr", "5e-3", "--batch-size", "16")
    ran = subprocess.run(
        [
            *(sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *flags, *sizes),
            *("--out", str(tmp_path / "out")),
        ],
        cwd=world,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    rewards = [float(x) for x in re.findall(r"reward (-?\d+\.\d+)", ran.stdout)]
    assert len(rewards) == 8
    assert max(rewards[-2:]) > rewards[0]
    if recipe != "online_dpo":
        first_kl = float(re.findall(r"KL (-?\d+\.\d+)", ran.stdout)[0])
        assert first_kl == 0.0
    else:
        first_loss = float(re.findall(r"loss (\d+\.\d+)", ran.stdout)[0])
        assert first_loss == pytest.approx(math.log(2), abs=1e-4)
    assert list((tmp_path / "out").glob("*.safetensors"))
