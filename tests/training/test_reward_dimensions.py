"""A reward model of one dimension: what it learns from, what its folder says, what is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.datasets import dataset_hash, read_pairs, write_records
from preftune.errors import DataError
from preftune.files import read_json
from preftune.inference.combine import CombineSettings
from preftune.inference.reward_scorer import load_scorer
from preftune.models.chat import load_chat
from preftune.training.method_settings import RewardSettings
from preftune.training.plan import read_rows
from preftune.training.reward_data import read_held_out_of, read_material
from preftune.training.settings import RunSettings
from preftune.types import PreferencePair, RankedList


@pytest.fixture(scope="module")
def both(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs of the world as helpful, and turned round as brief; the shorter text is chosen."""
    read = read_pairs(world / "pairs.jsonl")
    turned = [
        dataclasses.replace(p, id=f"{p.id}-b", chosen=p.rejected, rejected=p.chosen) for p in read
    ]
    named = [(p, "helpful") for p in read[:16]] + [(p, "brief") for p in turned]
    pairs = [dataclasses.replace(p, dimension=dimension) for p, dimension in named]
    file = tmp_path_factory.mktemp("dimensions") / "both.jsonl"
    write_records(file, pairs, format="preftune")
    return file


@pytest.fixture(scope="module")
def folders(world: Path, both: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One adapter per dimension, trained by command, on one base."""
    from preftune.cli.main import main

    runs = tmp_path_factory.mktemp("runs")
    for dimension in ("helpful", "brief"):
        code = main(
            [
                *("train", "reward", "--model", str(world / "base"), "--data", str(both)),
                *("--held-out", str(both), "--dimension", dimension, "--lora-rank", "4"),
                *("--lr", "1e-2", "--epochs", "4", "--batch-size", "8", "--threads", "1"),
                *("--out", str(runs / dimension)),
            ]
        )
        assert code == 0
    return {name: runs / name / "final" for name in ("helpful", "brief")}


def test_only_the_records_of_the_dimension_are_taken(world: Path, both: Path) -> None:
    chat = load_chat(world / "base")
    helpful = read_material(both, chat, dimension="helpful")
    assert len(helpful) == 16
    assert len(read_material(both, chat, dimension="brief")) == 24
    assert len(read_material(both, chat)) == 40
    assert len(read_held_out_of(both, "helpful")) == 16
    assert len(read_held_out_of(both, "")) == 40
    assert read_held_out_of(None, "helpful") == []
    s = RewardSettings(
        model=str(world / "base"), data=both, dimension="helpful", run=RunSettings(out=Path("o"))
    )
    assert len(read_rows(s)[0]) == 16


def test_ranked_lists_have_dimensions_too(world: Path, both: Path, tmp_path: Path) -> None:
    lists = [
        RankedList(
            id=pair.id,
            prompt=pair.prompt,
            responses=(pair.chosen, pair.rejected),
            ranks=(1, 2),
            dimension=pair.dimension,
        )
        for pair in read_pairs(both)
    ]
    write_records(tmp_path / "lists.jsonl", lists, format="preftune")
    found = read_material(tmp_path / "lists.jsonl", load_chat(world / "base"), dimension="brief")
    assert [one.dimension for one in found if isinstance(one, RankedList)] == ["brief"] * 24


def test_dimension_that_is_not_there_is_answered_with_those_that_are(
    run_cli: Callable[..., Any], world: Path, both: Path, tmp_path: Path
) -> None:
    ran = run_cli(
        *("train", "reward", "--model", world / "base", "--data", both),
        *("--dimension", "honest", "--out", tmp_path / "run"),
    )
    assert ran.code == 2
    assert "no record of dimension 'honest'. There are: brief, helpful." in ran.err
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="There are: overall"):
        read_held_out_of(world / "held_out.jsonl", "helpful")


def test_each_model_learns_its_own_dimension(both: Path, folders: dict[str, Path]) -> None:
    scorer = load_scorer(list(folders.values()))
    pairs = read_pairs(both)
    parts = scorer.parts([(p.prompt, side) for p in pairs for side in (p.chosen, p.rejected)])
    for name, part in zip(folders, parts, strict=True):
        margins = [good - bad for good, bad in zip(part[0::2], part[1::2], strict=True)]
        own = [m > 0 for m, p in zip(margins, pairs, strict=True) if p.dimension == name]
        other = [m > 0 for m, p in zip(margins, pairs, strict=True) if p.dimension != name]
        assert sum(own) >= 0.9 * len(own)
        assert sum(other) <= 0.1 * len(other)


def test_two_dimensions_take_the_memory_of_one_base(folders: dict[str, Path]) -> None:
    rewards = load_scorer(list(folders.values()), CombineSettings(combine="min")).rewards
    base, *own = rewards.describe()
    assert base.what == "backbone of " + ", ".join(member.name for member in rewards.members)
    assert len(own) == 2
    alone = load_scorer([folders["brief"]]).rewards.bytes
    assert rewards.bytes == alone + own[0].bytes
    assert 10 * own[0].bytes < base.bytes


def test_folder_says_dimension_set_and_units(both: Path, folders: dict[str, Path]) -> None:
    about = read_json(folders["helpful"] / "reward_model.json")
    assert about["dimension"] == "helpful"
    assert about["normalisation"]["source"] == "both.jsonl (training rows)"
    assert about["normalisation"]["responses"] == 32
    helpful: list[PreferencePair] = [p for p in read_pairs(both) if p.dimension == "helpful"]
    origin = read_json(folders["helpful"] / "MANIFEST.json")["origin"]
    assert origin["data"] == dataset_hash(helpful)
    held_out = read_json(folders["helpful"].parent / "held_out.json")
    assert held_out["model"]["n"] == 16
