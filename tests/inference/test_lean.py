"""Llama's layers in fewer operations: the same numbers as the model's own forward."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from tests.inference.conftest import tiny_gpt2
from tests.inference.test_decoder import ROWS, SIZES, check_against_forward, tiny_neox
from torch import Tensor, nn
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preftune.inference.decoder import FITS, PackedDecoder, decoder_for
from preftune.inference.lean import Lean
from preftune.inference.packed_linear import MOST_BYTES, can_pack
from preftune.models.adapters import add_lora
from preftune.models.lora import LoraSettings

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KIN: dict[str, Callable[[], PreTrainedModel]] = {
    "llama3": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters=LLAMA3)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
}


def causal_attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Tensor:
    ratio = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(ratio, 1), value.repeat_interleave(ratio, 1)
    found = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale
    )
    return found.transpose(1, 2)


@pytest.mark.parametrize("name", KIN)
def test_logits_are_those_of_the_models_own_forward(name: str) -> None:
    torch.manual_seed(1)
    model = KIN[name]().eval()
    ids = torch.randint(13, (2, 30))
    positions = torch.arange(30).expand(2, -1)
    with torch.no_grad():
        expected = model(ids).logits
        got = Lean(model).logits(ids, positions, None, causal_attention)
        last = Lean(model).logits(ids, positions, torch.tensor([3, 29]), causal_attention)
    assert (got - expected).abs().max() < 1e-5
    assert torch.equal(last, got[:, [3, 29]]) or (last - got[:, [3, 29]]).abs().max() < 1e-5


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_neox])
def test_models_of_another_kind_are_refused(make: Callable[[], PreTrainedModel]) -> None:
    with pytest.raises(NotImplementedError, match="not of Llama's kind"):
        Lean(make())


def test_a_decoder_takes_it_where_it_is_right_and_adapters_stay_on() -> None:
    torch.manual_seed(2)
    base = KIN["qwen3"]()
    model = add_lora(base, LoraSettings(lora_rank=2), seed=0).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3)
    decoder = decoder_for(model, ROWS, pad_id=0, new_tokens=7)
    assert isinstance(decoder, PackedDecoder)
    assert decoder.lean is not None
    check_against_forward(model, decoder)


def test_a_model_that_computes_something_else_keeps_its_own_layers() -> None:
    torch.manual_seed(3)
    config = GraniteConfig(**SIZES, num_key_value_heads=2, embedding_multiplier=2.0)
    model = GraniteForCausalLM(config).eval()  # Llama's parts, its embeddings twice as large
    decoder = decoder_for(model, ROWS, pad_id=0, new_tokens=7)
    assert isinstance(decoder, PackedDecoder)
    assert decoder.lean is None
    assert not FITS[model].lean
    check_against_forward(model, decoder)


@pytest.mark.parametrize("name", KIN)
@pytest.mark.parametrize("adapters", ["none", "on", "off", "merged"])
def test_packed_weights_give_the_same_logits(name: str, adapters: str) -> None:
    torch.manual_seed(4)
    base = KIN[name]()
    model = base if adapters == "none" else add_lora(base, LoraSettings(lora_rank=2), seed=0)
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name or "bias" in weight_name:
            weight.data.normal_(0, 0.3)
    if adapters == "merged":
        model.merge_adapter()
    ids = torch.randint(13, (3, 1))
    positions = torch.zeros(3, 1, dtype=torch.long)
    with torch.no_grad(), model.disable_adapter() if adapters == "off" else nullcontext():
        expected = model.eval()(ids).logits
        lean = Lean(base)
        lean.pack(3)
        got = lean.logits(ids, positions, None, causal_attention)
    assert lean.packed is not None
    assert (got - expected).abs().max() < 1e-5


def test_packed_weights_are_for_one_number_of_rows_only() -> None:
    torch.manual_seed(5)
    model = KIN["qwen2"]().eval()
    ids, positions = torch.randint(13, (5, 1)), torch.zeros(5, 1, dtype=torch.long)
    lean = Lean(model)
    with torch.no_grad():
        lean.pack(4)
        model.model.layers[0].mlp.up_proj.weight.mul_(2)  # not in the copy
        four = lean.logits(ids[:4], positions[:4], None, causal_attention)
        five = lean.logits(ids, positions, None, causal_attention)
        expected = model(ids).logits
        lean.unpack()
        after = lean.logits(ids[:4], positions[:4], None, causal_attention)
    assert (four - expected[:4]).abs().max() > 1e-4
    assert (five - expected).abs().max() < 1e-5
    assert (after - expected[:4]).abs().max() < 1e-5


def a_hook(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.register_forward_hook(lambda *_: None)


def another_kind(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.__class__ = type("Own", (nn.Linear,), {})


def half(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.to(torch.bfloat16)


@pytest.mark.parametrize("change", [a_hook, another_kind, half])
def test_weights_that_are_more_than_weights_are_not_packed(
    change: Callable[[PreTrainedModel], None],
) -> None:
    model = KIN["qwen2"]()
    lean = Lean(model)
    lean.pack(2)
    assert lean.packed is not None
    lean.unpack()
    change(model)
    lean.pack(2)
    assert lean.packed is None


def test_one_row_and_models_too_large_for_a_copy_are_not_packed() -> None:
    model = KIN["qwen2"]()
    lean = Lean(model)
    lean.pack(1)
    assert lean.packed is None
    large, fits = nn.Linear(1, 1), nn.Linear(1, 1)
    large.weight.data = torch.empty(1, 1).expand(MOST_BYTES // 4 + 1, 1)
    fits.weight.data = torch.empty(1, 1).expand(MOST_BYTES // 4, 1)
    assert not can_pack([large], 2)
    assert can_pack([fits], 2)
    assert not can_pack([fits, nn.Linear(1, 1)], 2)
    assert not can_pack([nn.Identity()], 2)


def test_a_decoder_packs_anew_when_rows_leave() -> None:
    torch.manual_seed(6)
    model = KIN["llama3"]().eval()
    decoder = PackedDecoder(model, [(1, 2, 3)] * 4 + [(5, 6)] * 2, Lean(model), patience=2)
    assert decoder.lean is not None
    token = torch.tensor([4, 4, 7, 8, 9, 9])
    seen = []
    with torch.no_grad():
        decoder.start()
        for step in range(8):
            if step == 4:
                decoder.keep(torch.tensor([0, 2, 5]))
                token = token[[0, 2, 5]]
            logits = decoder.step(token)
            seen.append(decoder.lean.packed and decoder.lean.packed[0])
        whole = model(torch.tensor([[5, 6] + [9] * 8])).logits[0, -1]
    assert seen == [None, None, 6, 6, None, None, 3, 3]
    assert (logits[2] - whole).abs().max() < 1e-4
