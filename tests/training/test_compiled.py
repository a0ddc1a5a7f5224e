"""Training with compiled layers: the same losses, from exactly log 2 on."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from preftune.engine.settings import EngineSettings
from preftune.errors import SettingsError
from preftune.training.logs import read_rows
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import RunSettings


def losses(world: Path, out: Path, *flags: str) -> list[float]:
    """Train in a process of its own: torch's compiler warns about itself."""
    command = [sys.executable, "-m", "preftune.cli.main", "train", "direct"]
    command += ["--model", str(world / "base"), "--data", str(world / "pairs.jsonl")]
    command += ["--out", str(out), "--lr", "3e-3", "--batch-size", "8", "--threads", "1"]
    subprocess.run([*command, *flags], check=True, capture_output=True)
    return [row["loss"] for row in read_rows(out / "metrics.jsonl")]


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses(world: Path, tmp_path: Path) -> None:
    plain = losses(world, tmp_path / "plain", "--nll-weight", "0")
    compiled = losses(world, tmp_path / "compiled", "--nll-weight", "0", "--compile")
    assert compiled[0] == pytest.approx(math.log(2), abs=1e-6)
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert compiled[-1] < 0.9 * compiled[0]


@pytest.mark.parametrize("other", [{"recompute": True}, {"engine": "plain"}], ids=str)
def test_what_compiling_does_not_go_with_is_refused(other: dict[str, bool]) -> None:
    with pytest.raises(SettingsError, match="compile does not go with"):
        EngineSettings(compile=True, **other)  # type: ignore[arg-type]  # a literal among them


def test_reward_models_refuse_to_be_compiled(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="reward models go without"):
        RewardSettings(
            model=str(world / "base"),
            data=world / "pairs.jsonl",
            run=RunSettings(out=tmp_path / "out", threads=1),
            engine=EngineSettings(compile=True),
        )
