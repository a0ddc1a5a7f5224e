"""Several adapters on one base, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from preftune.errors import ModelError, SettingsError
from preftune.models.adapters import add_lora, load_adapters, save_adapter, use_adapter
from preftune.models.load import load_policy, save_weights
from preftune.models.lora import LoraSettings

IDS = torch.tensor([[1, 2, 3, 4]])


def base_of(folder: Path, *, vocab_size: int = 32) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    save_weights(LlamaForCausalLM(config), folder)
    return folder


def adapter_of(base: Path, folder: Path, *, value: float) -> torch.Tensor:
    """Write an adapter and return the logits of its base with it."""
    model = add_lora(load_policy(base), LoraSettings(lora_rank=2), seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(value)
    save_adapter(model, folder)
    logits: torch.Tensor = model(IDS).logits
    return logits


def test_several_adapters_share_one_base(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    warm = adapter_of(base, tmp_path / "warm", value=0.05)
    terse = adapter_of(base, tmp_path / "terse", value=-0.05)
    model = load_adapters(
        load_policy(base), {"warm": tmp_path / "warm", "terse": tmp_path / "terse"}
    )
    assert torch.equal(model(IDS).logits, warm)
    use_adapter(model, "terse")
    assert torch.equal(model(IDS).logits, terse)
    use_adapter(model, "warm")
    assert torch.equal(model(IDS).logits, warm)
    with pytest.raises(ModelError, match=r"unknown. There are: warm, terse"):
        use_adapter(model, "polite")


def test_no_adapters_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none named"):
        load_adapters(load_policy(base_of(tmp_path / "base")), {})


def test_adapter_of_a_model_with_another_width_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    adapter_of(base, tmp_path / "adapter", value=0.05)
    torch.manual_seed(0)
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=24,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    with pytest.raises(ModelError, match="Give the adapter's own base model"):
        load_adapters(other, {"it": tmp_path / "adapter"})


def test_adapter_of_the_head_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    model = add_lora(
        load_policy(base), LoraSettings(lora_rank=2, lora_targets=("lm_head",)), seed=0
    )
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        save_adapter(model, tmp_path / "adapter")
    larger = load_policy(base_of(tmp_path / "larger", vocab_size=40))
    with pytest.raises(ModelError, match="size mismatch"):
        load_adapters(larger, {"it": tmp_path / "adapter"})


def test_nan_in_weights_is_named(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    model = load_policy(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    save_weights(model, tmp_path / "bad")
    with pytest.raises(ModelError, match=r"layers.0.mlp.up_proj.weight holds NaN"):
        load_policy(tmp_path / "bad")


@pytest.mark.parametrize("option", [{"dora": True}, {"lora_dropout": 0.1}, {"lora_alpha": 8.0}])
def test_options_of_an_adapter_that_is_not_made_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="changes nothing while lora_rank is 0"):
        LoraSettings(**option)  # type: ignore[arg-type]  # the parameters of the test
