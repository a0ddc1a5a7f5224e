"""V15: what counts and what does not, by another road: one sequence alone, by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from preftune.engine.layout import padded
from preftune.engine.logprobs import token_logprobs
from preftune.models.tokens import TokenSequence

VOCAB = 11


def sequence(
    prompt: list[int], response: list[int], own: list[bool] | None = None
) -> TokenSequence:
    marks = own or [False] * len(prompt) + [True] * len(response)
    return TokenSequence(prompt_ids=tuple(prompt), response_ids=tuple(response), own=tuple(marks))


def model(kind: str = "llama") -> nn.Module:
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCAB}
    configs = {
        "llama": lambda: LlamaConfig(hidden_size=16, intermediate_size=24, **small),
        "qwen2": lambda: Qwen2Config(
            hidden_size=16, intermediate_size=24, num_key_value_heads=1, **small
        ),
        "gpt2": lambda: GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCAB),
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[kind]()).eval()  # type: ignore[no-any-return]  # untyped


MODEL = model()
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)
batches = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5)


def by_hand(net: nn.Module, seq: TokenSequence) -> float:
    """Sum over own tokens of the log-softmax, token by token, from a forward without padding."""
    ids = torch.tensor([seq.ids])
    with torch.no_grad():
        logits = net(input_ids=ids, use_cache=False).logits[0].double()
    return sum(
        float(logits[place - 1][seq.ids[place]] - logits[place - 1].logsumexp(-1))
        for place in range(1, len(seq))
        if seq.own[place]
    )


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_padded_batch_equals_each_sequence_alone(kind: str) -> None:
    net = model(kind)
    rows = [sequence([1, 2, 3], [4, 5]), sequence([6], [7, 8, 9, 1, 2, 3]), sequence([2, 2], [0])]
    with torch.no_grad():
        sums = token_logprobs(net, rows).sums()
    assert sums.tolist() == pytest.approx([by_hand(net, row) for row in rows], abs=1e-5)


@given(batches)
@settings(max_examples=30)
def test_order_of_the_batch_changes_nothing(pairs: list[tuple[list[int], list[int]]]) -> None:
    rows = [sequence(prompt, response) for prompt, response in pairs]
    with torch.no_grad():
        forward = token_logprobs(MODEL, rows).sums()
        backward = token_logprobs(MODEL, rows[::-1]).sums()
    assert forward.tolist() == pytest.approx(backward.tolist()[::-1], abs=1e-5)


@given(tokens, tokens)
@settings(max_examples=30)
def test_tokens_that_are_not_own_contribute_exactly_0(
    prompt: list[int], response: list[int]
) -> None:
    nothing = sequence(prompt, response, own=[False] * (len(prompt) + len(response)))
    with torch.no_grad():
        found = token_logprobs(MODEL, [nothing, sequence(prompt, response)])
    assert found.sums()[0].item() == 0.0
    assert found.lengths().tolist() == [0, len(response)]
    assert not found.logprobs[0].any()
    assert found.logprobs[1].sum().item() == pytest.approx(
        by_hand(MODEL, sequence(prompt, response)), abs=1e-5
    )


def test_end_token_is_scored() -> None:
    with torch.no_grad():
        without = token_logprobs(MODEL, [sequence([1, 2], [3])]).sums().item()
        with_end = token_logprobs(MODEL, [sequence([1, 2], [3, 0])]).sums().item()
    assert with_end < without


def test_foreign_turns_inside_a_response_are_left_out() -> None:
    turns = sequence([1], [2, 3, 4, 5], own=[False, True, False, False, True])
    with torch.no_grad():
        found = token_logprobs(MODEL, [turns])
    assert found.sums().item() == pytest.approx(by_hand(MODEL, turns), abs=1e-5)
    assert found.lengths().item() == 2


def test_uniform_model_gives_log_of_the_vocabulary() -> None:
    net = model()
    with torch.no_grad():
        net.get_output_embeddings().weight.zero_()  # type: ignore[operator]  # untyped
        sums = token_logprobs(net, [sequence([1, 2], [3, 4, 5])]).sums()
    assert sums.item() == pytest.approx(-3 * math.log(VOCAB), rel=1e-6)


def test_gradient_reaches_the_model_and_padding_none() -> None:
    net = model()
    long, short = sequence([1], [2, 3, 4, 5, 6]), sequence([1], [2])
    (gradient,) = torch.autograd.grad(
        token_logprobs(net, [short]).sums().sum(),
        [net.get_input_embeddings().weight],  # type: ignore[operator]  # untyped
    )
    (beside,) = torch.autograd.grad(
        token_logprobs(net, [short, long]).sums()[0],
        [net.get_input_embeddings().weight],  # type: ignore[operator]  # untyped
    )
    assert gradient.abs().sum() > 0
    assert torch.allclose(gradient, beside, atol=1e-6)


def test_padded_rows_mark_what_is_real() -> None:
    batch = padded([[sequence([1, 2], [3])], [sequence([4], [5])]])
    assert batch.ids.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.scored.tolist() == [1, 3]  # the places before the own tokens
    assert batch.targets.tolist() == [3, 5]
