"""Both decoders against each model's own forward, and what is written against the row alone."""

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preftune.inference.decoder import Decoder, PackedDecoder, decoder_for, why_padded
from preftune.inference.generate import GenerateSettings, generate
from preftune.inference.padded import PaddedDecoder
from preftune.models.adapters import add_lora
from preftune.models.lora import LoraSettings

SIZES = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "eos_token_id": None,
    "bos_token_id": None,
}
LONG, MIDDLE, SHORT = (6, 5, 3, 5, 8, 9, 7, 9, 3, 2), (3, 1, 4, 1, 5), (9, 2)
ROWS = [LONG, LONG, LONG, MIDDLE, MIDDLE, SHORT]


def tiny_qwen3() -> PreTrainedModel:
    """Norms on queries and keys, four query heads on two key heads, heads wider than usual."""
    torch.manual_seed(3)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)).eval()


def tiny_neox() -> PreTrainedModel:
    """Queries, keys and values in one matrix, a part of each turned; attention beside the MLP."""
    torch.manual_seed(4)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, rotary_pct=0.5)).eval()


def tiny_gemma2() -> PreTrainedModel:
    """Scores squashed by a tanh, and every second layer with a window of 6 tokens."""
    torch.manual_seed(5)
    config = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=4, sliding_window=6)
    return Gemma2ForCausalLM(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3": tiny_qwen3,
    "neox": tiny_neox,
    "gemma2": tiny_gemma2,
}


@pytest.fixture(scope="module", params=MODELS)
def more_models(request: pytest.FixtureRequest) -> PreTrainedModel:
    return MODELS[request.param]()


def check_against_forward(model: PreTrainedModel, decoder: Decoder) -> None:
    """Write seven tokens to six rows, two of which leave after three; compare all the logits."""
    rows, new = list(ROWS), torch.randint(13, (6, 7), generator=torch.Generator().manual_seed(0))
    written = [list(prompt) for prompt in rows]
    with torch.no_grad():
        logits = decoder.start()
        for step in range(7):
            if step == 3:
                kept = torch.tensor([0, 2, 4])  # LONG twice, MIDDLE once; SHORT is gone
                decoder.keep(kept)
                written, new, logits = [written[row] for row in kept], new[kept], logits[kept]
            for row, ids in enumerate(written):
                expected = model(torch.tensor([ids])).logits[0, -1]
                assert logits[row].tolist() == pytest.approx(expected.tolist(), abs=2e-5)
            logits = decoder.step(new[:, step])
            for ids, token in zip(written, new[:, step].tolist(), strict=True):
                ids.append(token)


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_logits_equal_a_forward_of_each_row_alone(any_model: PreTrainedModel, way: str) -> None:
    packed = way == "packed" and not isinstance(any_model, MistralForCausalLM)
    decoder = PackedDecoder(any_model, ROWS) if packed else PaddedDecoder(any_model, ROWS, 0)
    check_against_forward(any_model, decoder)


def test_logits_equal_a_forward_whatever_way_is_taken(more_models: PreTrainedModel) -> None:
    check_against_forward(more_models, decoder_for(more_models, ROWS, pad_id=0, new_tokens=7))


def test_prompts_are_packed_unless_the_attention_is_the_models_own(llama: LlamaForCausalLM) -> None:
    for make in (tiny_qwen3, tiny_neox):
        assert why_padded(make()) == ""
    assert why_padded(llama) == ""
    assert "softcap" in why_padded(tiny_gemma2())


def test_a_window_shorter_than_the_rows_is_left_to_the_model() -> None:
    torch.manual_seed(6)
    sizes = SIZES | {"num_key_value_heads": 2, "sliding_window": 16}
    model = MistralForCausalLM(MistralConfig(**sizes)).eval()
    assert isinstance(decoder_for(model, ROWS, pad_id=0, new_tokens=6), PackedDecoder)
    longer = decoder_for(model, ROWS, pad_id=0, new_tokens=7)  # 10 + 7 tokens
    assert isinstance(longer, PaddedDecoder)
    check_against_forward(model, longer)


def test_a_bucket_whose_rows_have_all_ended_leaves(llama: LlamaForCausalLM) -> None:
    # 35 short prompts beside one of 100 tokens are too much padding for one bucket
    rows = [(7,) * 100, *((place % 13, place // 13, 2, 1) for place in range(35))]
    decoder = PackedDecoder(llama, rows)
    assert len(decoder.buckets) == 2
    kept = torch.tensor([33, 35])
    new = torch.tensor([[3, 4], [5, 6]])
    with torch.no_grad():
        decoder.start()
        decoder.step(torch.arange(36) % 13)
        decoder.keep(kept)
        assert len(decoder.buckets) == 1
        logits = [decoder.step(token) for token in new.T]
        for place, row in enumerate(kept.tolist()):
            ids = [*rows[row], row % 13, *new[place].tolist()]
            expected = llama(torch.tensor([ids])).logits[0, -2:]
            found = torch.stack([one[place] for one in logits])
            assert found.flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=2e-5)


def draw(model: torch.nn.Module, rows: list[int], batch_size: int) -> list[tuple[int, ...]]:
    settings = GenerateSettings(max_new_tokens=8, temperature=0.9, top_p=0.9, batch_size=batch_size)
    prompts = [(ROWS * 2)[row] for row in rows]
    drawn = generate(model, prompts, settings, seeds=rows, end_ids=(0, 1), pad_id=0)
    return [reply.ids for reply in drawn]


def test_reply_does_not_depend_on_its_neighbours(more_models: PreTrainedModel) -> None:
    rows = list(range(12))
    whole = draw(more_models, rows, 256)
    assert draw(more_models, rows, 5) == whole
    assert draw(more_models, rows[::-1], 12)[::-1] == whole
    assert draw(more_models, [7], 1) == whole[7:8]


def test_each_of_several_adapters_writes_what_its_merged_model_writes(
    llama: LlamaForCausalLM,
) -> None:
    adapted = add_lora(copy.deepcopy(llama), LoraSettings(lora_rank=2), seed=4)
    adapted.add_adapter("second", adapted.peft_config["default"])
    torch.manual_seed(4)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    rows, found = list(range(6)), {}
    for name in ("default", "second", "default"):
        adapted.set_adapter(name)
        found[name] = draw(adapted, rows, 256)
        merged = copy.deepcopy(adapted).merge_and_unload(adapter_names=[name])
        assert found[name] == draw(merged, rows, 256)
    assert found["default"] != found["second"]
    with adapted.disable_adapter():
        assert draw(adapted, rows, 256) == draw(llama, rows, 256)
