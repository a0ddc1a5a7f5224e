"""`preftune train unpaired | listwise | reward`: runs by flags, and mistakes in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import PreferencePair, RankedList, assistant, make_prompt, user

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-train-more")
    pairs = [
        PreferencePair(
            id=f"pair-{n}",
            prompt=make_prompt(user(f"question {n} ?")),
            chosen=(assistant(f"a kind answer to {n} ."),),
            rejected=(assistant(f"no {n} ."),),
        )
        for n in range(12)
    ]
    rankings = [
        RankedList(
            id=f"list-{p.id}",
            prompt=p.prompt,
            responses=(p.chosen, p.rejected),
            ranks=(1, 1) if place % 4 == 0 else (1, 2),
        )
        for place, p in enumerate(pairs)
    ]
    texts = [m.content for p in pairs for m in (*p.prompt.messages, *p.chosen, *p.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=60, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", pairs, format="preftune")
    write_records(folder / "ties.jsonl", rankings, format="preftune")
    ordered = [ranking for ranking in rankings if ranking.ranks == (1, 2)]
    write_records(folder / "ordered.jsonl", ordered, format="preftune")
    return folder


@pytest.mark.parametrize(
    ("method", "data", "extra", "first"),
    [
        ("unpaired", "pairs.jsonl", ["--loss", "bco"], "6 steps, loss 0.6931 →"),
        ("unpaired", "pairs.jsonl", ["--held-out", "pairs.jsonl"], "6 steps, loss 0.5000 →"),
        ("listwise", "ordered.jsonl", [], "3 steps, loss 0.6931 →"),
        ("reward", "ties.jsonl", ["--objective", "rao-kupper"], "3 steps, loss"),
    ],
    ids=["bco", "kto", "listwise", "rao-kupper"],
)
def test_a_method_runs_from_flags(
    world: Path,
    tmp_path: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    data: str,
    extra: list[str],
    first: str,
) -> None:
    monkeypatch.chdir(world)
    arguments = ["train", method, "--model", "base", "--data", data, "--out", tmp_path / "run"]
    ran = run_cli(*arguments, *extra, "--lr", "1e-3", "--batch-size", 4, "--threads", 1)
    assert ran.code == 0, ran.err
    assert first in ran.out
    assert ("held-out pair accuracy" in ran.out) == ("--held-out" in extra)
    assert (tmp_path / "run" / "final").is_dir()


@pytest.mark.parametrize(
    ("method", "data", "extra", "said"),
    [
        ("unpaired", "pairs.jsonl", ["--loss", "kt"], "loss"),
        ("unpaired", "pairs.jsonl", ["--beta", "0"], "beta"),
        ("unpaired", "pairs.jsonl", ["--loss", "bco", "--desirable-weight", "2"], "is kto"),
        ("unpaired", "pairs.jsonl", ["--batch-size", "1"], "--batch-size"),
        ("unpaired", "ties.jsonl", [], "holds RankedList"),
        ("listwise", "pairs.jsonl", [], "holds pairs, not ranked lists"),
        ("listwise", "ties.jsonl", [], "3 of 12 lists put no response above another"),
        ("reward", "ties.jsonl", [], "--objective davidson"),
        ("reward", "pairs.jsonl", ["--objective", "davidson"], "needs ranked lists"),
    ],
    ids=["loss", "beta", "weight", "batch", "kind", "pairs", "tied", "ties", "davidson"],
)
def test_a_mistake_of_the_new_methods_is_one_line(
    world: Path,
    tmp_path: Path,
    run_cli: Cli,
    method: str,
    data: str,
    extra: list[str],
    said: str,
) -> None:
    arguments = ["train", method, "--model", world / "base", "--data", world / data]
    ran = run_cli(*arguments, "--out", tmp_path / "run", "--threads", 1, *extra)
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.parametrize("method", ["unpaired", "listwise", "reward"])
def test_help_shows_an_example_and_every_flag(run_cli: Cli, method: str) -> None:
    ran = run_cli("train", method, "--help")
    assert ran.code == 0
    assert f"Example: preftune train {method}" in ran.out
    assert "--held-out" in ran.out
