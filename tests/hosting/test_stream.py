"""One forward for everything: the logits of each row are those of that row alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preftune.hosting.plan import Reading, plan_of
from preftune.hosting.shelves import Shelves
from preftune.hosting.stream import Stream, fits, stream_of

WORDS = 23
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
    "eos_token_id": None,
    "bos_token_id": None,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, rotary_pct=0.5)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=512)
    ),
}


def stream_for(name: str) -> Stream:
    torch.manual_seed(3)
    stream, why = stream_of(MODELS[name]().eval())
    assert stream is not None, why
    return stream


@pytest.fixture(scope="module", params=MODELS)
def any_stream(request: pytest.FixtureRequest) -> Stream:
    return stream_for(request.param)


@pytest.fixture(scope="module")
def llama_stream() -> Stream:
    return stream_for("llama")


@dataclass(eq=False)
class Row:
    """A reply that writes random tokens."""

    ids: list[int] = field(default_factory=list)


def check_traffic(stream: Stream, seed: int, lengths: list[int], chunk: int) -> None:
    """Let prompts of these lengths come at random, write, and leave; compare all logits."""
    rng = random.Random(seed)
    shelves: Shelves[Row] = Shelves(stream.shape)
    coming = [tuple(rng.randrange(WORDS) for _ in range(length)) for length in lengths]
    readings: list[Reading] = []
    for _ in range(40):
        if not (coming or readings or shelves.rows()):
            return
        if coming and rng.random() < 0.5:
            readings.append(stream.reading(coming.pop(), every=rng.random() < 0.3))
        for row in [row for row in shelves.rows() if rng.random() < 0.1]:
            shelves.take(row)
        for row in shelves.rows():
            row.ids.append(rng.randrange(WORDS))
        shelves.make_room()
        step(stream, shelves, readings, chunk)
        for reading in [reading for reading in readings if reading.done]:
            readings.remove(reading)
            for _ in range(rng.choice([1, 1, 3])):
                shelves.put(Row(list(reading.ids)), reading.held, len(reading.ids))


def step(stream: Stream, shelves: Shelves[Row], readings: list[Reading], chunk: int) -> None:
    rows, left = shelves.rows(), chunk
    pieces = []
    for reading in readings:
        tokens = min(left, len(reading.ids) - reading.read)
        if tokens:
            pieces.append((reading, tokens))
        left -= tokens
    if not rows and not pieces:
        return
    plan = plan_of(stream.sizes, shelves.shelves(), pieces)
    logits = stream.forward(plan, [row.ids[-1] for row in rows])
    shelves.written()
    wanted = [(tuple(row.ids), -1, -1) for row in rows]
    for chunk_ in plan.chunks:
        ids, start, stop = chunk_.reading.ids, chunk_.start, chunk_.stop
        wanted += [
            (ids[:stop], at, at + 1) for at in range(stop) if keeps(chunk_.reading, at, start)
        ]
    assert len(logits) == len(wanted)
    for got, (ids, at, _) in zip(logits, wanted, strict=True):
        with torch.no_grad():
            expected = stream.model(torch.tensor([ids])).logits[0, at]
        assert got.tolist() == pytest.approx(expected.tolist(), abs=3e-5)


def keeps(reading: Reading, at: int, start: int) -> bool:
    return at >= start and (reading.every or at == len(reading.ids) - 1)


def test_logits_of_traffic_are_those_of_each_row_alone(any_stream: Stream) -> None:
    check_traffic(any_stream, seed=0, lengths=[5, 3, 40, 5, 126], chunk=16)


@settings(max_examples=6)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from([1, 2, 7, 30, 125, 130]), min_size=1, max_size=6),
    st.sampled_from([5, 64]),
)
def test_any_order_of_arrival_gives_the_same_logits(
    llama_stream: Stream, seed: int, lengths: list[int], chunk: int
) -> None:
    check_traffic(llama_stream, seed, lengths, chunk)


def test_squashed_scores_are_left_to_the_model() -> None:
    config = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=4, sliding_window=6)
    stream, why = stream_of(Gemma2ForCausalLM(config).eval())
    assert stream is None
    assert "softcap" in why


def test_a_window_shorter_than_the_row_does_not_fit() -> None:
    sizes = SIZES | {"num_key_value_heads": 2, "sliding_window": 16}
    model = MistralForCausalLM(MistralConfig(**sizes)).eval()
    assert (fits(model, 16), fits(model, 17)) == (True, False)


def test_the_attention_of_the_model_is_as_before(llama_stream: Stream) -> None:
    assert llama_stream.model.config._attn_implementation == "sdpa"
