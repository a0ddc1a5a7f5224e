"""An observer changes nothing, hears of each step once, and may stop a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from preftune.engine.settings import OptimizerSettings
from preftune.files import sha256_of
from preftune.models.lora import LoraSettings
from preftune.training import direct, sft
from preftune.training.logs import read_rows
from preftune.training.observer import Trainee
from preftune.training.settings import DirectSettings, RunSettings, SftSettings
from preftune.training.signals import Stopped

STEPS = 6
OPTIMIZER = OptimizerSettings(lr=1e-3, batch_size=8, epochs=2.0)
LORA = LoraSettings(lora_rank=2, lora_dropout=0.1)


@dataclass(kw_only=True, slots=True)
class Looker:
    """Measures all validation rows at each step, and writes down what it hears."""

    validation: Path | None = None
    samples: int = 1
    stop_after: int = 0
    folder: Path = Path()
    seen: list[Trainee] = field(default_factory=list)
    heard: list[tuple[str, int]] = field(default_factory=list)

    def meet(self, trainee: Trainee) -> None:
        self.seen.append(trainee)

    def figures(self, step: int, metrics: Mapping[str, float]) -> Mapping[str, float]:
        self.heard.append(("figures", step))
        trainee = self.seen[-1]
        found = trainee.validate(range(trainee.validation_rows), step)
        return {f"full_valid_{name}": value for name, value in found.items()}

    def stops(self) -> bool:
        return self.heard[-1][1] + 1 == self.stop_after

    def after(self, step: int, seconds: Mapping[str, float], *, last: bool) -> None:
        self.heard.append(("last" if last else "after", step))
        if step == 2:
            self.seen[-1].save(self.folder)

    def saved(self, steps: int) -> None:
        self.heard.append(("saved", steps))


def settings(world: Path, out: Path, method: str) -> Any:
    common: dict[str, Any] = {
        "model": str(world / "base"),
        "optimizer": OPTIMIZER,
        "lora": LORA,
        "run": RunSettings(out=out, threads=1, save_every=4),
    }
    if method == "sft":
        return SftSettings(data=world / "sft.jsonl", **common)
    held_out = world / "held_out.jsonl"
    return DirectSettings(data=world / "pairs.jsonl", held_out=held_out, **common)


TRAIN = {"sft": sft.train, "direct": direct.train}


def steps_of(method: str) -> int:
    return 8 if method == "sft" else STEPS  # 30 rows, 24 pairs; 8 a step; two epochs


@pytest.mark.parametrize("method", ["sft", "direct"])
def test_a_run_that_is_looked_at_learns_the_same_bits(
    world: Path, tmp_path: Path, method: str
) -> None:
    alone = TRAIN[method](settings(world, tmp_path / "alone", method))  # type: ignore[operator]  # of both
    looker = Looker(validation=world / "sft.jsonl", folder=tmp_path / "saved")
    seen = TRAIN[method](settings(world, tmp_path / "seen", method), observer=looker)  # type: ignore[operator]  # of both
    assert sha256_of(alone / "adapter_model.safetensors") == sha256_of(
        seen / "adapter_model.safetensors"
    )
    rows = read_rows(tmp_path / "seen" / "metrics.jsonl")
    plain = read_rows(tmp_path / "alone" / "metrics.jsonl")
    assert [{n: v for n, v in row.items() if n in plain[0]} for row in rows] == plain
    assert all("full_valid_loss" in row for row in rows)
    steps = steps_of(method)
    told = [(what, step) for what, step in looker.heard if what in ("after", "last")]
    assert told == [*(("after", n) for n in range(steps - 1)), ("last", steps - 1)]
    assert [step for what, step in looker.heard if what == "saved"] == sorted({4, steps})


@pytest.mark.parametrize("method", ["sft", "direct"])
def test_a_stopped_run_has_saved_and_goes_on_to_the_same_bits(
    world: Path, tmp_path: Path, method: str
) -> None:
    quiet = Looker(validation=world / "sft.jsonl", folder=tmp_path / "saved")
    TRAIN[method](settings(world, tmp_path / "quiet", method), observer=quiet)  # type: ignore[operator]  # of both
    looker = Looker(validation=world / "sft.jsonl", stop_after=3, folder=tmp_path / "saved again")
    s = settings(world, tmp_path / "run", method)
    with pytest.raises(Stopped, match="after step 3"):
        TRAIN[method](s, observer=looker)  # type: ignore[operator]  # of both
    assert looker.heard[-2:] == [("after", 2), ("saved", 3)]
    TRAIN[method](s, observer=Looker(validation=world / "sft.jsonl"))  # type: ignore[operator]  # of both
    for name in ("metrics.jsonl", "final/adapter_model.safetensors"):
        assert sha256_of(tmp_path / "run" / name) == sha256_of(tmp_path / "quiet" / name)
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        once, again = tmp_path / "saved" / name, tmp_path / "saved again" / name
        assert sha256_of(once) == sha256_of(again)
