"""Each method on a tiny model: the first loss known, the last one lower, all files there."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import CheckpointError, DataError, ModelError, SettingsError
from preftune.files import read_json
from preftune.models.heads import load_reward_model
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.settings import build, read_yaml
from preftune.training import direct, reward, sft
from preftune.training.logs import read_rows
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import (
    DirectSettings,
    LengthSettings,
    ProbeSettings,
    RunSettings,
    SftSettings,
    VariantSettings,
)

FAST = OptimizerSettings(lr=3e-3, batch_size=8, epochs=2.0)


def direct_settings(world: Path, out: Path, **changes: object) -> DirectSettings:
    values: dict[str, object] = {
        "model": str(world / "base"),
        "data": world / "pairs.jsonl",
        "run": RunSettings(out=out, threads=1),
        "optimizer": FAST,
    }
    return DirectSettings(**(values | changes))  # type: ignore[arg-type]  # checked by the class


def reward_settings(world: Path, out: Path, **changes: object) -> RewardSettings:
    values: dict[str, object] = {
        "model": str(world / "base"),
        "data": world / "pairs.jsonl",
        "held_out": world / "held_out.jsonl",
        "run": RunSettings(out=out, threads=1),
        "optimizer": FAST,
    }
    return RewardSettings(**(values | changes))  # type: ignore[arg-type]  # checked by the class


def sft_settings(world: Path, out: Path, **changes: object) -> SftSettings:
    values: dict[str, object] = {
        "model": str(world / "base"),
        "data": world / "sft.jsonl",
        "run": RunSettings(out=out, threads=1),
        "optimizer": FAST,
    }
    return SftSettings(**(values | changes))  # type: ignore[arg-type]  # checked by the class


def metrics(out: Path) -> list[dict[str, float]]:
    return read_rows(out / "metrics.jsonl")


def test_sft_starts_near_the_uniform_loss_and_learns(world: Path, tmp_path: Path) -> None:
    final = sft.train(sft_settings(world, tmp_path / "run"))
    rows = metrics(tmp_path / "run")
    vocabulary = load_policy(final).config.vocab_size
    assert rows[0]["loss"] == pytest.approx(math.log(vocabulary), abs=0.5)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert (tmp_path / "run" / "plots" / "curves.svg").exists()


def test_direct_starts_at_exactly_log_2_with_rewards_of_exactly_0(
    world: Path, tmp_path: Path
) -> None:
    direct.train(direct_settings(world, tmp_path / "run", nll_weight=0.2))
    rows = metrics(tmp_path / "run")
    first = rows[0]
    assert first["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [first[name] for name in ("chosen_logratio", "rejected_logratio", "margin")] == [0, 0, 0]
    assert first["accuracy"] == 0.0
    assert first["loss"] == pytest.approx(math.log(2) + 0.2 * first["nll"], abs=1e-5)
    assert rows[-1]["preference_loss"] < 0.5
    assert rows[-1]["margin"] > 1


@pytest.mark.parametrize("micro_tokens", [1, 150])
def test_micro_batches_of_any_size_give_the_same_run(
    world: Path, tmp_path: Path, micro_tokens: int
) -> None:
    once = replace(FAST, epochs=1.0)
    whole = direct_settings(world, tmp_path / "whole", nll_weight=0.2, optimizer=once)
    parts = direct_settings(
        world,
        tmp_path / "parts",
        nll_weight=0.2,
        optimizer=once,
        engine=EngineSettings(micro_tokens=micro_tokens),
    )
    direct.train(whole)
    direct.train(parts)
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)
    first_a, first_b = metrics(tmp_path / "whole")[0], metrics(tmp_path / "parts")[0]
    assert first_a["loss"] == pytest.approx(first_b["loss"], abs=1e-6)
    assert first_a["grad_norm"] == pytest.approx(first_b["grad_norm"], rel=1e-5)


def test_direct_with_lora_trains_the_adapter_alone(world: Path, tmp_path: Path) -> None:
    final = direct.train(
        direct_settings(
            world,
            tmp_path / "run",
            lora=LoraSettings(lora_rank=4, lora_dropout=0.1),
            held_out=world / "held_out.jsonl",
        )
    )
    rows = metrics(tmp_path / "run")
    assert rows[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (final / "adapter_model.safetensors").exists()
    assert not (final / "model.safetensors").exists()
    assert read_json(tmp_path / "run" / "held_out.json")["model"]["n"] == 6


def test_a_run_of_another_installation_goes_on_when_it_is_trusted(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = sft_settings(world, tmp_path / "run")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "here"))
    before = (sft.train(s) / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "final")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "there"))
    with pytest.raises(CheckpointError, match=r"sealed by another installation \(key [0-9a-f]{16}"):
        sft.train(s)
    final = sft.train(replace(s, run=replace(s.run, trust_foreign=True)))
    assert (final / "model.safetensors").read_bytes() == before


def test_direct_over_a_base_in_4_bits_starts_at_log_2_and_learns(
    world: Path, tmp_path: Path
) -> None:
    lora = LoraSettings(lora_rank=4, base_bits=4)
    s = direct_settings(world, tmp_path / "run", lora=lora, held_out=world / "held_out.jsonl")
    final = direct.train(s)
    rows = metrics(tmp_path / "run")
    assert rows[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["chosen_logratio"] == 0  # the reference is the same base in the same 4 bits
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (final / "adapter_model.safetensors").exists()
    tensors = load_file(final / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors)
    assert any(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name)
    for bits in (32, 4):  # PEFT puts it over the base as it was, or over the same 4 bits
        assert load_policy(final, bits=bits).peft_config["default"].r == 4


@pytest.mark.parametrize(
    ("label", "first"),
    [("soft", math.log(2)), ("hard", math.log(2)), ("offset", None)],
)
def test_direct_uses_what_the_raters_said(
    world: Path, tmp_path: Path, label: str, first: float | None
) -> None:
    direct.train(direct_settings(world, tmp_path / "run", label=label))
    rows = metrics(tmp_path / "run")
    if first is not None:
        assert rows[0]["preference_loss"] == pytest.approx(first, abs=1e-6)
    else:  # strengths 0..3, offset .2 each: between log 2 and log(1 + e^.6)
        assert math.log(2) < rows[0]["preference_loss"] < math.log1p(math.exp(0.6))
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("base", ["base", "encoder"])
def test_reward_model_learns_and_is_normalised(world: Path, tmp_path: Path, base: str) -> None:
    s = reward_settings(world, tmp_path / "run", model=str(world / base))
    final = reward.train(s)
    rows = metrics(tmp_path / "run")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=0.4)
    assert rows[-1]["loss"] < 0.35
    held_out = read_json(tmp_path / "run" / "held_out.json")
    assert held_out["model"]["share"] == 1.0
    assert held_out["length_rule"] == "longer wins"
    model = load_reward_model(final)
    assert model.std.item() > 0
    again = load_reward_model(final)
    assert torch.equal(again.head.weight, model.head.weight)


def test_same_seed_same_bytes_and_another_seed_others(world: Path, tmp_path: Path) -> None:
    finals = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = RunSettings(out=tmp_path / name, seed=seed, threads=1)
        finals[name] = sft.train(sft_settings(world, tmp_path / name, run=run))
    weights = {n: (f / "model.safetensors").read_bytes() for n, f in finals.items()}
    assert weights["a"] == weights["b"] != weights["c"]
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (
        tmp_path / "b" / "metrics.jsonl"
    ).read_bytes()


def test_a_finished_run_is_returned_untouched(world: Path, tmp_path: Path) -> None:
    s = sft_settings(world, tmp_path / "run")
    final = sft.train(s)
    stamp = (final / "model.safetensors").stat().st_mtime_ns
    assert sft.train(s) == final
    assert (final / "model.safetensors").stat().st_mtime_ns == stamp


def test_another_run_in_the_same_folder_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    direct.train(direct_settings(world, tmp_path / "run"))
    with pytest.raises(SettingsError, match=r"beta was 0\.1, now 0\.2"):
        direct.train(direct_settings(world, tmp_path / "run", beta=0.2))
    with pytest.raises(SettingsError, match="data was"):
        direct.train(direct_settings(world, tmp_path / "run", data=world / "held_out.jsonl"))


def test_two_processes_cannot_train_in_one_folder(world: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "run.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process"):
            sft.train(sft_settings(world, tmp_path / "run"))


def test_written_settings_train_the_same_run_again(world: Path, tmp_path: Path) -> None:
    first = direct_settings(world, tmp_path / "run", nll_weight=0.3, label="soft")
    direct.train(first)
    written = read_yaml(tmp_path / "run" / "settings.yaml")
    assert written["beta"] == 0.1  # the default is written out
    again = build(DirectSettings, written)
    assert again == replace(first, beta=0.1)
    assert direct.train(again) == tmp_path / "run" / "final"


def test_long_rows_stop_the_run_with_their_count(world: Path, tmp_path: Path) -> None:
    short = LengthSettings(max_length=20)
    with pytest.raises(DataError, match=r"30 of 30 rows are longer than 20 tokens.*--on-long"):
        sft.train(sft_settings(world, tmp_path / "run", length=short))
    with pytest.raises(ModelError, match="holds 1024"):
        sft.train(sft_settings(world, tmp_path / "more", length=LengthSettings(max_length=9999)))


def test_long_rows_are_dropped_into_a_file_or_their_prompts_cut(
    world: Path, tmp_path: Path
) -> None:
    lengths = LengthSettings(max_length=22, on_long="cut-prompt")
    sft.train(sft_settings(world, tmp_path / "cut", length=lengths))
    with pytest.raises(SettingsError, match="no rows"):
        sft.train(
            sft_settings(
                world, tmp_path / "dropped", length=LengthSettings(max_length=20, on_long="drop")
            )
        )
    assert len((tmp_path / "dropped" / "dropped_train.jsonl").read_bytes().splitlines()) == 30


def test_a_setting_without_effect_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="offset_per_strength changes nothing"):
        direct_settings(world, tmp_path, variant=VariantSettings(offset_per_strength=0.5))
    with pytest.raises(SettingsError, match="margin_per_strength changes nothing"):
        reward_settings(world, tmp_path, margin_per_strength=0.5)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_probe_measures_kl_and_can_end_the_run(world: Path, tmp_path: Path, lora_rank: int) -> None:
    probe = ProbeSettings(probe_every=2, probe_prompts=8, probe_tokens=16, kl_stop=1e-9)
    s = direct_settings(
        world, tmp_path / "run", probe=probe, lora=LoraSettings(lora_rank=lora_rank)
    )
    final = direct.train(s)
    probes = read_rows(tmp_path / "run" / "probes.jsonl")
    assert probes[0]["step"] == 1
    assert probes[-1]["kl"] > 1e-9
    assert len(metrics(tmp_path / "run")) == 2 * len(probes) < 6
    warnings = [row["warning"] for row in read_rows(tmp_path / "run" / "warnings.jsonl")]
    assert any("kl_stop" in warning for warning in warnings)
    assert direct.train(s) == final


def test_lora_leaves_the_base_weights_alone(world: Path, tmp_path: Path) -> None:
    final = sft.train(
        sft_settings(world, tmp_path / "run", lora=LoraSettings(lora_rank=4, dora=True))
    )
    before = load_file(world / "base" / "model.safetensors")
    model = load_policy(final)
    inner = {name: p for name, p in model.named_parameters() if "lora" not in name}
    name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    assert torch.equal(inner[name].detach(), before["model.layers.0.self_attn.q_proj.weight"])
