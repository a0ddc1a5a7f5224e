"""`preftune plan`: the options of `train`, a table or JSON, nothing written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.cli.reference import commands
from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import PreferencePair, assistant, make_prompt, user

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-plan")
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


def flags(world: Path, tmp_path: Path) -> list[object]:
    data = world / "pairs.jsonl"
    return ["--model", world / "base", "--data", data, "--out", tmp_path / "run", "--threads", 1]


@pytest.mark.parametrize("method", ["sft", "reward", "direct"])
def test_a_plan_takes_the_options_of_training_and_json(method: str) -> None:
    names = {
        name.removeprefix("preftune "): {p.opts[0] for p in command.params}
        for name, command in commands()
    }
    assert names[f"plan {method}"] - names[f"train {method}"] == {"--json"}
    assert names[f"train {method}"] <= names[f"plan {method}"]


def test_a_plan_prints_tables_and_writes_nothing(world: Path, tmp_path: Path, run_cli: Cli) -> None:
    ran = run_cli("plan", "direct", *flags(world, tmp_path), "--batch-size", 4)
    assert ran.code == 0, ran.err
    for said in ("rows", "12", "longest row", "memory at the peak", "disk", "time: about", "fits"):
        assert said in ran.out
    assert not (tmp_path / "run").exists()


def test_a_plan_as_json_holds_the_same_figures(world: Path, tmp_path: Path, run_cli: Cli) -> None:
    ran = run_cli("plan", "reward", *flags(world, tmp_path), "--batch-size", 4, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["data"]["rows"] == 12
    assert found["data"]["steps"] == 3
    assert found["peak_bytes"] == sum(found["memory"].values())
    assert found["fits"] is True
    assert found["time"]["low"] <= found["time"]["high"]


def test_a_config_file_serves_a_plan_as_well(world: Path, tmp_path: Path, run_cli: Cli) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {world / 'base'}\ndata: {world / 'pairs.jsonl'}\nout: {tmp_path / 'run'}\n"
        "batch_size: 6\nthreads: 1\n"
    )
    ran = run_cli("plan", "direct", "--config", config, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["data"]["steps"] == 2


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--beta", "0"], "beta"),
        (["--loss", "sigmod"], "sigmoid"),
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--max-length", "3"], "longer than 3 tokens"),
    ],
    ids=["range", "loss", "data", "model", "length"],
)
def test_a_mistake_in_a_plan_is_one_line_and_exit_code_2(
    world: Path, tmp_path: Path, run_cli: Cli, extra: list[str], said: str
) -> None:
    ran = run_cli("plan", "direct", *flags(world, tmp_path), *extra)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
