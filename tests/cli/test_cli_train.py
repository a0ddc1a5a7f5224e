"""`preftune train`: a run by flags and YAML; every mistake is one line and exit code 2."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import PreferencePair, assistant, make_prompt, user

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-train")
    rows = [
        PreferencePair(
            id=f"pair-{n}",
            prompt=make_prompt(user(f"question {n} ?")),
            chosen=(assistant(f"a kind answer to {n} ."),),
            rejected=(assistant(f"no {n} ."),),
        )
        for n in range(12)
    ]
    texts = [m.content for r in rows for m in (*r.prompt.messages, *r.chosen, *r.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=60, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", rows, format="preftune")
    return folder


def test_a_run_from_flags_ends_with_figures_and_paths(
    world: Path, tmp_path: Path, run_cli: Cli
) -> None:
    pairs = world / "pairs.jsonl"
    arguments = ["train", "direct", "--model", world / "base", "--data", pairs]
    arguments += ["--held-out", pairs, "--out", tmp_path / "run", "--lr", "1e-3"]
    ran = run_cli(*arguments, "--batch-size", 4, "--threads", 1)
    assert ran.code == 0, ran.err
    assert "3 steps, loss 0.6931 →" in ran.out
    assert "held-out pair accuracy" in ran.out
    assert "length only" in ran.out
    again = run_cli(*arguments, "--batch-size", 4, "--threads", 1)
    assert again.code == 0
    assert again.out == ran.out


def test_flags_win_over_the_file(world: Path, tmp_path: Path, run_cli: Cli) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {world / 'base'}\ndata: {world / 'pairs.jsonl'}\nout: {tmp_path / 'run'}\n"
        "batch_size: 12\nbeta: 0.5\nthreads: 1\n"
    )
    ran = run_cli("train", "direct", "--config", config, "--batch-size", 6)
    assert ran.code == 0, ran.err
    resolved = (tmp_path / "run" / "settings.yaml").read_text()
    assert "beta: 0.5" in resolved
    assert "batch_size: 6" in resolved
    assert "2 steps" in ran.out


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--beta", "0"], "beta"),
        (["--lr", "-1"], "lr"),
        (["--label", "hardest"], "label"),
        (["--epochs", "nan"], "epochs is nan"),
        (["--offset-per-strength", "0.5"], "changes nothing unless label is offset"),
        (["--max-length", "3"], "--on-long"),
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--lora-rank", "4", "--lora-targets", "no_such_layer"], "no_such_layer"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    world: Path, tmp_path: Path, run_cli: Cli, extra: list[str], said: str
) -> None:
    base = ["train", "direct", "--model", str(world / "base"), "--threads", "1"]
    base += ["--data", str(world / "pairs.jsonl"), "--out", str(tmp_path / "run")]
    ran = run_cli(*base, *extra)
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert "Traceback" not in ran.err
    assert not (tmp_path / "run" / "final").exists()


def test_an_unknown_key_names_the_file_and_the_nearest(
    world: Path, tmp_path: Path, run_cli: Cli
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("bta: 0.5\n")
    ran = run_cli("train", "direct", "--config", config)
    assert ran.code == 2
    assert f"{config}: unknown setting 'bta'. Did you mean 'beta'?" in ran.err


def test_an_unknown_flag_is_refused(run_cli: Cli) -> None:
    ran = run_cli("train", "direct", "--btea", "0.1")
    assert ran.code == 2
    assert "--btea" in ran.err
