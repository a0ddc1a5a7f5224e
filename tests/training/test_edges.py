"""The smallest runs there are, and settings that would teach nothing."""

import math
from pathlib import Path

import pytest

from preftune.datasets import read_pairs, write_records
from preftune.engine.settings import OptimizerSettings
from preftune.errors import SettingsError
from preftune.settings import checked
from preftune.training import direct
from preftune.training.logs import read_rows
from preftune.training.settings import DirectSettings, RunSettings


def settings(world: Path, out: Path, **optimizer: float) -> DirectSettings:
    return DirectSettings(
        model=str(world / "base"),
        data=world / "pairs.jsonl",
        nll_weight=0.0,
        run=RunSettings(out=out, threads=1),
        optimizer=OptimizerSettings(**optimizer),  # type: ignore[arg-type]  # checked by the class
    )


def test_one_pair_in_batches_of_one_trains(world: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    write_records(one, read_pairs(world / "pairs.jsonl")[:1], format="preftune")
    s = DirectSettings(
        model=str(world / "base"),
        data=one,
        nll_weight=0.0,
        run=RunSettings(out=tmp_path / "run", threads=1),
        optimizer=OptimizerSettings(lr=1e-3, epochs=3.0, batch_size=1),
    )
    direct.train(s)
    losses = [row["loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("lr", [0.0, -1e-4])
def test_a_learning_rate_that_teaches_nothing_is_refused(
    world: Path, tmp_path: Path, lr: float
) -> None:
    with pytest.raises(SettingsError, match="lr"):
        checked(settings(world, tmp_path / "run", lr=lr))


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_beta_at_or_below_0_is_refused_before_anything_is_written(
    world: Path, tmp_path: Path, beta: float
) -> None:
    s = DirectSettings(
        model=str(world / "base"),
        data=world / "pairs.jsonl",
        beta=beta,
        run=RunSettings(out=tmp_path / "run"),
    )
    with pytest.raises(SettingsError, match="beta"):
        direct.train(s)
    assert not (tmp_path / "run").exists()
