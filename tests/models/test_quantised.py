"""A base in 4 bits: small, close to the whole one, never trained; the adapter over it learns."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from preftune.engine.precision import Masters
from preftune.errors import ModelError, SettingsError
from preftune.files import read_json, write_json
from preftune.models.adapters import add_lora, merge_adapter
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.models.quantised import bytes_of, weights_of, whole

LORA = LoraSettings(lora_rank=4, base_bits=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four-bits") / "base"
    new_model(
        folder,
        preset="tiny",
        texts=["can i wash it ?"] * 3,
        vocab_size=40,
        seed=0,
        tokenizer="words",
    )
    return folder


def test_a_weight_takes_about_four_bits_and_is_near_the_whole_one(base: Path) -> None:
    packed, plain = load_policy(base, bits=4), load_policy(base)
    linear = {name: m for name, m in plain.named_modules() if isinstance(m, torch.nn.Linear)}
    inside = {name: m for name, m in linear.items() if name != "lm_head"}
    assert weights_of(packed) == sum(m.weight.numel() for m in inside.values())
    assert 4.0 < 8 * bytes_of(packed) / weights_of(packed) < 4.6
    for name, m in inside.items():
        back = whole(packed.get_submodule(name)).float()
        # NF4's widest step is between -1 and -0.696 of a block's largest number: half is 0.152
        largest = m.weight.flatten().unflatten(0, (-1, 64)).abs().amax(1, keepdim=True)
        error = (back - m.weight).flatten().unflatten(0, (-1, 64)).abs()
        assert bool((error <= 0.17 * largest).all())
    assert torch.equal(packed.lm_head.weight, plain.lm_head.weight)
    assert weights_of(plain) == 0


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_reach_the_adapter_alone(base: Path, precision: str, dora: bool) -> None:
    lora = LoraSettings(lora_rank=4, base_bits=4, dora=dora)
    model = add_lora(load_policy(base, bits=4), lora, seed=0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    masters = Masters(model, "bf16" if precision == "bf16" else "fp32")
    before = bytes_of(model)
    logits = model(torch.tensor([[1, 2, 3, 4]])).logits
    assert logits.dtype == dtype
    logits.float().square().sum().backward()
    assert all("lora_" in name for name in masters.weights)
    reached = {name for name, p in masters.weights.items() if p.grad is not None}
    assert {name for name in masters.weights if "lora_B" in name} <= reached
    assert not [n for n, p in model.named_parameters() if p.grad is not None and "lora_" not in n]
    assert bytes_of(model) == before
    masters.finish()
    assert model(torch.tensor([[1, 2]])).logits.dtype == torch.float32


def test_numbers_that_are_not_finite_are_named(base: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in base.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] = math.nan
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        load_policy(bad, bits=4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"base_bits": 4}, "needs an adapter"), ({"base_bits": 8, "lora_rank": 4}, "Use 32 or 4")],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        LoraSettings(**changes)  # type: ignore[arg-type]  # numbers only


def test_a_quantised_base_is_never_merged_into(base: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    config = read_json(base / "config.json") | {"quantization_config": {"load_in_4bit": True}}
    write_json(packed / "config.json", config)
    with pytest.raises(ModelError, match="merging would have to dequantise"):
        merge_adapter(packed, tmp_path / "adapter", tmp_path / "out")
