"""The fast core against the plain padded forward: log-probs and gradients, many architectures."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from preftune.engine.attention import packed_attention_forward
from preftune.engine.attention_cuda import segmentwise
from preftune.engine.core import Core, head_of
from preftune.engine.head import head_logprobs
from preftune.engine.layout import packed
from preftune.engine.logprobs import token_logprobs
from preftune.engine.settings import EngineSettings
from preftune.errors import HealthError
from preftune.models.adapters import adapter_off, add_lora
from preftune.models.lora import LoraSettings
from preftune.models.tokens import TokenSequence

VOCAB = 97
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = {"num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2}
SHARED: dict[str, dict[str, Any]] = {
    "llama": GQA,
    "qwen2": GQA,
    "qwen3": GQA | {"head_dim": 16},
    "mistral": GQA | {"sliding_window": None},
    "mixtral": GQA | EXPERTS | {"num_local_experts": 4},
    "gemma2": GQA | {"head_dim": 8, "final_logit_softcapping": 5.0},
    "gemma3_text": GQA | {"head_dim": 8},
    "phi3": GQA,
    "phi": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": {},
    "olmo2": GQA,
    "smollm3": GQA,
    "granite": GQA | {"logits_scaling": 2.0, "attention_multiplier": 0.2},
    "cohere": GQA | {"logit_scale": 0.5},
    "glm4": GQA | {"head_dim": 8},
    "qwen3_moe": GQA | EXPERTS | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16},
    "starcoder2": GQA,
}
UNSHARED: dict[str, dict[str, Any]] = {"bloom": {}, "stablelm": GQA, "mamba": {}}


def model_of(kind: str, *, loud: float = 3.0, **extra: Any) -> Any:
    """A small random model whose logits are large enough to tell right from nearly right."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **extra})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(loud)
    return model


def core_of(model: Any, settings: EngineSettings, **more: Any) -> Core:
    """A core that makes a stream of everything, however little that saves."""
    core = Core.of(model, settings, **more)
    core.worth = 0.0
    return core


def rows_of(counts: Sequence[int] = (2, 2, 2), *, seed: int = 0) -> list[list[TokenSequence]]:
    """Rows of random tokens; count responses share a prompt."""
    rng = random.Random(seed)
    rows = []
    for count in counts:
        prompt = draw(rng, rng.randrange(3, 20))
        rows.append([sequence(prompt, draw(rng, rng.randrange(1, 15))) for _ in range(count)])
    return rows


def draw(rng: random.Random, length: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, VOCAB) for _ in range(length))


def sequence(prompt: tuple[int, ...], response: tuple[int, ...]) -> TokenSequence:
    own = (False,) * len(prompt) + (True,) * len(response)
    return TokenSequence(prompt_ids=prompt, response_ids=response, own=own)


def plain(model: nn.Module, rows: list[list[TokenSequence]]) -> Tensor:
    return token_logprobs(model, [s for row in rows for s in row]).logprobs


def gradients(model: nn.Module, logprobs: Tensor) -> dict[str, Tensor]:
    """Gradients of a sum that weighs every token differently."""
    model.zero_grad()
    weights = torch.linspace(-1.0, 1.0, logprobs.numel()).reshape(logprobs.shape)
    (weights * logprobs).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, rel: float = 1e-5
) -> None:
    """Every parameter's gradient within `rel` of the largest norm of any."""
    assert found.keys() == expected.keys()
    scale = max(g.norm().item() for g in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm().item() <= rel * scale, name


@pytest.mark.parametrize("kind", [*SHARED, *UNSHARED])
def test_core_equals_the_plain_forward(kind: str) -> None:
    model = model_of(kind, **(SHARED | UNSHARED)[kind])
    core = core_of(model, EngineSettings())
    rows = rows_of((2, 3, 1))
    assert bool(core.note) == (kind in UNSHARED), core.note
    fast, slow = core.token_logprobs(rows).logprobs, plain(model, rows)
    assert slow.min() < -2.0  # the model is not flat
    assert (fast.sum(-1) - slow.sum(-1)).abs().max().item() <= 1e-5 * slow.sum(-1).abs().max()
    assert_same_gradients(gradients(model, fast), gradients(model, slow))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_core_in_bf16_stays_near_fp32(kind: str) -> None:
    """The stated bound: .25 nats a token at most, .03 on average; bf16 has three digits."""
    model = model_of(kind, **SHARED[kind])
    rows = rows_of((2, 3, 1))
    exact = plain(model, rows)
    fast = core_of(model.bfloat16(), EngineSettings()).token_logprobs(rows).logprobs
    assert (fast - exact).abs().max().item() <= 0.25
    assert (fast - exact).abs().sum().item() / (exact != 0).sum().item() <= 0.03


def test_more_than_one_block_of_queries_and_long_rows_give_the_same() -> None:
    model = model_of("llama", **GQA, loud=2.0)
    rng = random.Random(1)
    for prompt, first, second in ((100, 70, 90), (30, 200, 25), (5, 120, 130)):
        shared = draw(rng, prompt)
        row = [sequence(shared, draw(rng, first)), sequence(shared, draw(rng, second))]
        core = core_of(model, EngineSettings())
        fast, slow = core.token_logprobs([row]).logprobs, plain(model, [row])
        assert (fast - slow).abs().max().item() <= 1e-5
        assert_same_gradients(gradients(model, fast), gradients(model, slow))


def test_odd_rows_give_the_same() -> None:
    """No common prefix, one a prefix of the other, own tokens in several turns."""
    turns = TokenSequence(
        prompt_ids=(5, 6, 7), response_ids=(8, 9, 10, 11, 12), own=(False, True) * 4
    )
    rows = [
        [sequence((5,), (6, 7)), sequence((9,), (6, 7, 8))],
        [sequence((5, 6), (7, 8)), sequence((5, 6), (7, 8, 9, 10))],
        [sequence((5, 6), (7, 8, 9, 10)), sequence((5, 6), (7, 8))],
        [turns],
        [turns, turns],
    ]
    model = model_of("llama", **GQA)
    found = core_of(model, EngineSettings()).token_logprobs(rows)
    expected = token_logprobs(model, [s for row in rows for s in row])
    assert found.lengths().tolist() == expected.lengths().tolist()
    assert (found.logprobs - expected.logprobs).abs().max().item() <= 1e-5
    assert_same_gradients(gradients(model, found.logprobs), gradients(model, expected.logprobs))


@pytest.mark.parametrize("elements", [1, VOCAB * 3, VOCAB * 1000])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "phi"])
def test_chunks_of_any_size_give_the_same(kind: str, elements: int) -> None:
    head = head_of(model_of(kind, **SHARED[kind]))
    hidden = torch.randn(11, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(11)
    weights = torch.linspace(-1, 1, 11)
    wanted = [hidden, head.weight] + ([head.bias] if head.bias is not None else [])
    chunked = head_logprobs(head, hidden, targets, chunk_elements=elements)
    found = torch.autograd.grad((weights * chunked).sum(), wanted)
    logits = nn.functional.linear(hidden, head.weight, head.bias) * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    whole = logits.log_softmax(-1)[torch.arange(11), targets]
    expected = torch.autograd.grad((weights * whole).sum(), wanted)
    assert (chunked - whole).abs().max().item() <= 1e-5
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm().item() <= 1e-5 * b.norm().item()


def test_collisions_are_the_sum_of_squared_probabilities() -> None:
    model = model_of("llama", **GQA)
    rows = rows_of((2, 1))
    found = core_of(model, EngineSettings()).token_logprobs(rows, collisions=True)
    assert found.log_collisions is not None
    one = rows[0][0]
    logits = model(input_ids=torch.tensor([one.ids])).logits[0, len(one.prompt_ids) - 1]
    expected = logits.softmax(-1).square().sum().log().item()
    assert found.log_collisions[0, 0].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_computing_layers_again_changes_nothing(kind: str) -> None:
    rows = rows_of((2, 2))
    kept = model_of(kind, **SHARED[kind])
    expected = gradients(kept, core_of(kept, EngineSettings()).token_logprobs(rows).logprobs)
    again = model_of(kind, **SHARED[kind]).train()
    for module in again.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    again.config.attn_pdrop = 0.0
    core = core_of(again, EngineSettings(recompute=True))
    assert core.shares(rows)
    assert_same_gradients(gradients(again, core.token_logprobs(rows).logprobs), expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_computing_layers_again_keeps_little_in_eval_mode_too(kind: str) -> None:
    """Direct methods train with the base's dropout off, that is in eval mode."""

    def kept_bytes(*, recompute: bool) -> int:
        model = model_of(kind, **SHARED[kind])
        core = core_of(model, EngineSettings(recompute=recompute))
        core.token_logprobs(rows_of((1,)))  # the check on the first batch
        sizes: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            core.token_logprobs(rows_of((2, 2)))
        assert not any(module.training for module in model.modules())
        return sum(sizes)

    assert kept_bytes(recompute=True) < 0.6 * kept_bytes(recompute=False)


@pytest.mark.parametrize("dora", [False, True])
def test_adapter_off_equals_the_base_and_trains_the_same(dora: bool) -> None:
    rows = rows_of((2, 2))
    base = model_of("llama", **GQA)
    expected = core_of(base, EngineSettings()).token_logprobs(rows).logprobs.detach()
    adapted = add_lora(
        model_of("llama", **GQA), LoraSettings(lora_rank=4, dora=dora), seed=0
    ).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    core = core_of(adapted, EngineSettings())
    moved = core.token_logprobs(rows).logprobs
    assert (moved - expected).abs().max().item() > 0.01
    assert_same_gradients(
        gradients(adapted, moved), gradients(adapted, plain(adapted, rows)), rel=2e-5
    )
    with adapter_off(adapted):
        off = core.token_logprobs(rows).logprobs.detach()
    assert (off - expected).abs().max().item() <= 1e-6


def test_sliding_window_shares_rows_inside_it_and_not_longer_ones() -> None:
    model = model_of("mistral", **GQA, sliding_window=8, loud=2.0)
    said: list[str] = []
    core = core_of(model, EngineSettings(), tell=said.append)
    short = [[sequence((5, 6, 7), (8, 9)), sequence((5, 6, 7), (10, 11, 12))]]
    long = rows_of((2, 2))
    assert core.shares(short)
    assert not core.shares(long)
    for rows, words in ((short, 0), (long, 1), (long, 1)):
        found = core.token_logprobs(rows).logprobs
        assert (found - plain(model, rows)).abs().max().item() <= 1e-5
        assert len(said) == words


@pytest.mark.parametrize("sizes", [[8], [1] * 8, [2] * 4, [4, 4]], ids=str)
def test_accumulation_gives_the_gradient_of_the_whole_step(sizes: list[int]) -> None:
    model = model_of("llama", **GQA)
    core = core_of(model, EngineSettings())
    rows = rows_of((2,) * 8)
    tokens = sum(s.own_length for row in rows for s in row)
    expected = gradients_of_mean(model, plain(model, rows).sum() / tokens)
    model.zero_grad()
    begin = 0
    for size in sizes:
        (core.token_logprobs(rows[begin : begin + size]).logprobs.sum() / tokens).backward()
        begin += size
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert_same_gradients(found, expected, rel=1e-6)


def gradients_of_mean(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_torchs_own_attention_segment_by_segment_gives_the_same() -> None:
    """What a GPU without flash-attn uses; it runs anywhere."""
    layout = packed(rows_of((2, 3, 1)))
    generator = torch.Generator().manual_seed(0)
    tokens = layout.ids.shape[1]
    query = torch.randn(4, tokens, 8, generator=generator)
    key, value = torch.randn(2, 2, tokens, 8, generator=generator)
    found = segmentwise(query, key, value, layout.groups, 0.3)
    expected, _ = packed_attention_forward(
        nn.Identity(), query[None], key[None], value[None], None, scaling=0.3, layout=layout
    )
    assert (found - expected[0].transpose(0, 1)).abs().max().item() <= 1e-5


class Doubled(LlamaForCausalLM):  # type: ignore[misc]  # transformers has no types here
    """A model whose own forward does more to the logits than its config says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out


def doubled() -> Any:
    torch.manual_seed(0)
    model = Doubled(LlamaConfig(**SMALL)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


def test_a_head_that_is_not_what_it_seems_goes_the_plain_way() -> None:
    model = doubled()
    core = core_of(model, EngineSettings())
    assert not core.own_head
    assert "head" in core.note
    rows = rows_of((2,))
    assert torch.equal(core.token_logprobs(rows).logprobs, plain(model, rows))


def test_a_mismatch_on_the_first_batch_stops_with_the_figures() -> None:
    with pytest.raises(HealthError, match=r"differ from the plain forward by .* nats a token"):
        Core(model=doubled(), worth=0.0).token_logprobs(rows_of((2,)))


def test_rows_of_like_length_without_a_shared_prompt_are_padded() -> None:
    model = model_of("llama", **GQA)
    core = Core.of(model, EngineSettings())
    alike = [[sequence((5, 6, 7), (8, 9))], [sequence((9, 8), (7, 6, 5))]]
    apart = [[sequence((5, 6, 7), (8, 9))], [sequence(tuple(range(5, 40)), (7, 6, 5))]]
    paired = [[sequence((5, 6, 7, 8, 9), (8,)), sequence((5, 6, 7, 8, 9), (7,))]]
    assert not core.gains(alike)
    assert core.gains(apart)
    assert core.gains(paired)
    for rows in (alike, apart, paired):
        found = core.token_logprobs(rows).logprobs
        assert (found - plain(model, rows)).abs().max().item() <= 1e-5


def test_attention_dropout_in_training_goes_the_unshared_way() -> None:
    model = model_of("llama", **GQA, attention_dropout=0.5)
    core = core_of(model, EngineSettings())
    rows = rows_of((2,))
    assert core.shares(rows)
    model.train()
    assert not core.shares(rows)


def test_the_model_is_left_with_its_own_attention() -> None:
    model = model_of("llama", **GQA)
    core_of(model, EngineSettings()).token_logprobs(rows_of((2,)))
    assert model.config._attn_implementation == "sdpa"
