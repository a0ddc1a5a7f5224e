import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import (
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from preftune.engine.logprobs import token_logprobs
from preftune.errors import ModelError
from preftune.inference.decoder import PackedDecoder
from preftune.inference.generate import Generated, GenerateSettings, generate
from preftune.inference.padded import SPARE
from preftune.inference.picking import LIKELIEST
from preftune.inference.picking import pick as pick_with_logprobs
from preftune.models.adapters import add_lora
from preftune.models.lora import LoraSettings
from preftune.models.tokens import TokenSequence

PROMPTS = [(3, 1, 4, 1, 5), (9, 2), (6, 5, 3, 5, 8, 9, 7, 9), (3, 2, 3), (8,), (4, 6, 2, 6, 4)]
ENDS = (0, 1)


def draw(
    model: PreTrainedModel,
    prompts: list[tuple[int, ...]],
    *,
    seeds: list[int] | None = None,
    end_ids: tuple[int, ...] = ENDS,
    max_new_tokens: int = 20,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> list[Generated]:
    settings = GenerateSettings(
        max_new_tokens=max_new_tokens, temperature=temperature, batch_size=batch_size
    )
    chosen = list(range(len(prompts))) if seeds is None else seeds
    return generate(model, prompts, settings, seeds=chosen, end_ids=end_ids, pad_id=0)


def hugging_face_greedy(
    model: PreTrainedModel, prompt: tuple[int, ...], new: int
) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new,
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


def test_greedy_equals_hugging_face_row_by_row(any_model: PreTrainedModel) -> None:
    # one batch of six lengths, padded on the left, against each prompt alone without padding
    got = draw(any_model, PROMPTS, temperature=0, end_ids=(99,))
    assert [g.ids for g in got] == [hugging_face_greedy(any_model, p, 20) for p in PROMPTS]


def test_greedy_equals_hugging_face_past_the_spare_room(llama: LlamaForCausalLM) -> None:
    new = 2 * SPARE + 5  # the cache has to grow twice
    [got] = draw(llama, [PROMPTS[0]], temperature=0, end_ids=(99,), max_new_tokens=new)
    assert got.ids == hugging_face_greedy(llama, PROMPTS[0], new)


def test_reply_depends_on_its_own_seed_and_not_on_its_neighbours(
    any_model: PreTrainedModel,
) -> None:
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    together = draw(any_model, prompts)
    alone = [draw(any_model, [p], seeds=[row])[0] for row, p in enumerate(prompts)]
    assert [g.ids for g in together] == [g.ids for g in alone]
    assert len({len(g.ids) for g in together}) > 3  # rows did leave the batch at different steps
    assert len({g.ids for g in together}) > 12


def test_reply_does_not_depend_on_the_batch_size_or_order(llama: LlamaForCausalLM) -> None:
    whole = draw(llama, PROMPTS)
    small = draw(llama, PROMPTS, batch_size=2)
    back = draw(llama, PROMPTS[::-1], seeds=list(range(len(PROMPTS)))[::-1])
    assert [g.ids for g in whole] == [g.ids for g in small] == [g.ids for g in back][::-1]


def test_reply_stops_at_its_first_end_token_and_only_there(any_model: PreTrainedModel) -> None:
    got = draw(any_model, PROMPTS * 10, max_new_tokens=6)
    assert any(g.finished for g in got)
    assert not all(g.finished for g in got)
    for g in got:
        assert g.finished == (g.ids[-1] in ENDS)
        assert not set(g.ids[:-1]) & set(ENDS)
        assert g.finished or len(g.ids) == 6
        assert len(g.logprobs) == len(g.ids)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_equal_a_full_forward_of_the_plain_model(
    any_model: PreTrainedModel, temperature: float
) -> None:
    got = draw(any_model, PROMPTS, temperature=temperature)
    for prompt, g in zip(PROMPTS, got, strict=True):
        own = (False,) * len(prompt) + (True,) * len(g.ids)
        sequence = TokenSequence(prompt_ids=prompt, response_ids=g.ids, own=own)
        with torch.no_grad():
            scored = token_logprobs(any_model, [sequence])
        assert g.logprobs == pytest.approx(scored.logprobs[scored.own].tolist(), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_sampled_logprobs_are_those_at_the_temperature_drawn_with(
    llama: LlamaForCausalLM, temperature: float
) -> None:
    for prompt, g in zip(PROMPTS, draw(llama, PROMPTS, temperature=temperature), strict=True):
        with torch.no_grad():
            logits = llama(torch.tensor([[*prompt, *g.ids]])).logits[0, len(prompt) - 1 : -1]
        scaled = torch.log_softmax(logits / (temperature or 1.0), -1)
        expected = scaled.gather(1, torch.tensor(g.ids)[:, None])[:, 0]
        assert g.sampled_logprobs == pytest.approx(expected.tolist(), abs=1e-5)
        assert (g.sampled_logprobs == g.logprobs) == (temperature != 0.7)


def test_two_drawn_tokens_follow_the_models_joint_distribution(llama: LlamaForCausalLM) -> None:
    prompt, n = (3, 1, 4), 6000
    got = draw(llama, [prompt] * n, end_ids=(99,), max_new_tokens=2, batch_size=n)
    size = llama.config.vocab_size
    counts = torch.zeros(size, size)
    for g in got:
        counts[g.ids] += 1
    with torch.no_grad():
        first = llama(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        follow = llama(torch.tensor([(*prompt, a) for a in range(size)])).logits[:, -1].softmax(-1)
    expected = (first[:, None] * follow).double().flatten() * n
    common = expected > 5
    observed = torch.cat([counts.flatten()[common], counts.flatten()[~common].sum()[None]])
    wanted = torch.cat([expected[common], n - expected[common].sum()[None]])
    assert common.sum() > 20
    assert chisquare(observed.double().numpy(), wanted.numpy()).pvalue > 0.01


def pick(logits: torch.Tensor, uniforms: torch.Tensor, **settings: Any) -> torch.Tensor:
    return pick_with_logprobs(logits, uniforms, **settings)[0]


def row(*probs: float) -> torch.Tensor:
    return torch.tensor([[math.log(p) for p in probs]])


@pytest.mark.parametrize(
    ("u", "token"),
    [(0.0, 0), (0.199, 0), (0.201, 1), (0.699, 1), (0.701, 2), (0.999999, 2)],
)
def test_number_picks_the_slice_it_falls_in(u: float, token: int) -> None:
    # slices of .2, .5, .3 end at .2, .7, 1
    assert pick(row(0.2, 0.5, 0.3), torch.tensor([u]), temperature=1.0).item() == token


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 1), (0.51, 1), (0.52, 3), (0.81, 3), (0.82, 0), (0.999999, 0)]
)
def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass(u: float, token: int) -> None:
    # .5 + .3 + .18 pass .9 and .02 is left out; slices end at .5/.98 = .5102, .8/.98 = .8163, 1
    logits = row(0.18, 0.5, 0.02, 0.3)
    assert pick(logits, torch.tensor([u]), temperature=1.0, top_p=0.9).item() == token


def test_top_p_of_a_mass_just_reached_leaves_the_next_token_out() -> None:
    picked = {
        int(pick(row(0.5, 0.25, 0.25), torch.tensor([u / 100]), temperature=1.0, top_p=0.5))
        for u in range(100)
    }
    assert picked == {0}


def test_top_k_draws_from_just_k_and_breaks_ties_by_the_lower_id() -> None:
    us = torch.arange(100) / 100
    picked = pick(row(0.2, 0.4, 0.2, 0.2).expand(100, -1), us, temperature=1.0, top_k=2)
    # .4 and .2 of .6: two thirds go to token 1, one third to token 0
    assert (picked == 1).sum() == 67
    assert (picked == 0).sum() == 33


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    us = torch.arange(100) / 100
    logits = row(0.4, 0.3, 0.2, 0.1).expand(100, -1)
    # of .4, .3 the first holds .571, enough for top_p .55 only after top_k has cut
    assert set(pick(logits, us, temperature=1.0, top_k=2, top_p=0.55).tolist()) == {0}
    assert set(pick(logits, us, temperature=1.0, top_p=0.55).tolist()) == {0, 1}


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=9),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 1),
    st.integers(1, 9),
)
def test_filters_never_pick_a_token_they_should_have_dropped(
    logits: list[float], u: float, top_p: float, top_k: int
) -> None:
    probs = torch.tensor([logits], dtype=torch.float32).softmax(-1)[0].tolist()
    order = sorted(range(len(probs)), key=lambda i: -probs[i])[:top_k]
    mass = sum(probs[i] for i in order)
    kept: list[int] = []
    held = 0.0
    for i in order:
        if kept and held >= top_p * mass * (1 + 1e-9):
            break
        kept.append(i)
        held += probs[i]
    picked = pick(
        torch.tensor([logits], dtype=torch.float32),
        torch.tensor([u], dtype=torch.float64),
        temperature=1.0,
        top_p=top_p,
        top_k=top_k,
    )
    assert min(probs[i] for i in kept) <= probs[int(picked)] * (1 + 1e-6)


def test_lower_temperature_sharpens() -> None:
    us = torch.arange(1000) / 1000
    logits = row(0.8, 0.2).expand(1000, -1)
    # at 1/2 the odds are squared: 16 to 1
    assert (pick(logits, us, temperature=0.5) == 0).float().mean() == pytest.approx(
        16 / 17, abs=2e-3
    )


@pytest.mark.parametrize("words", [5, 256, 257, 3000])
def test_a_row_in_blocks_gives_the_word_of_the_whole_row(words: int) -> None:
    generator = torch.Generator().manual_seed(words)
    logits = torch.randn(200, words, generator=generator) * 4
    us = torch.rand(200, generator=generator, dtype=torch.float64)
    ends = torch.softmax(logits.double(), -1).cumsum(-1)
    expected = torch.searchsorted(ends, us[:, None] * ends[:, -1:], right=True)[:, 0]
    picked = pick(logits, us, temperature=1.0)
    off = (picked != expected).nonzero()[:, 0]  # only where a number lies on a border
    below = torch.minimum(picked, expected)[off]
    assert (ends[off, below] - us[off]).abs().max() < 1e-5 if len(off) else True
    assert len(off) <= 1


def test_top_p_that_needs_more_than_the_likeliest_words_sorts_them_all() -> None:
    words = 2 * LIKELIEST + 7
    logits = torch.linspace(0.0, 0.01, words).expand(50, -1)  # nearly flat, the last likeliest
    us = torch.arange(50) / 50
    picked = pick(logits, us, temperature=1.0, top_p=0.75)
    # the order is from the last word down: a number u falls about 0.75 u of the way
    assert picked.tolist() == pytest.approx((words * (1 - 0.75 * us)).tolist(), abs=words * 0.01)
    assert picked.min() > words * 0.24


def test_impossible_token_is_never_picked() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(3, -1)
    us = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert pick(logits, us, temperature=1.0).tolist() == [1, 1, 1]


def test_equal_prompts_are_read_once(llama: LlamaForCausalLM) -> None:
    decoder = PackedDecoder(llama, [PROMPTS[0], PROMPTS[0], PROMPTS[0], PROMPTS[1]])
    assert decoder.prompts == [PROMPTS[0], PROMPTS[1]]
    with torch.inference_mode():
        logits = decoder.start()
    assert logits.shape[0] == 4
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[3])


def test_dropout_is_off_while_drawing_and_the_model_left_as_it_was(
    gpt2: GPT2LMHeadModel,
) -> None:
    expected = draw(gpt2, PROMPTS)
    gpt2.train()
    assert draw(gpt2, PROMPTS) == expected
    assert gpt2.training


def test_adapter_writes_what_the_merged_model_writes(llama: LlamaForCausalLM) -> None:
    adapted = add_lora(copy.deepcopy(llama), LoraSettings(lora_rank=2), seed=4)
    torch.manual_seed(4)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    got = draw(adapted, PROMPTS, temperature=0)
    assert got != draw(llama, PROMPTS, temperature=0)
    merged = copy.deepcopy(adapted).merge_and_unload()
    assert [g.ids for g in got] == [g.ids for g in draw(merged, PROMPTS, temperature=0)]


def test_no_prompts_give_no_replies(llama: LlamaForCausalLM) -> None:
    assert draw(llama, []) == []


def test_prompt_longer_than_the_positions_is_refused(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match=r"prompt 1: 120 tokens and 20 new ones exceed .* 128"):
        draw(llama, [(3,), (3,) * 120])


def test_empty_prompt_is_refused(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match="prompt 0: no tokens"):
        draw(llama, [()])


def test_recurrent_model_is_refused() -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=13, hidden_size=8, state_size=4, num_hidden_layers=1)
    with pytest.raises(ModelError, match="recurrent state"):
        draw(MambaForCausalLM(config).eval(), PROMPTS)


def test_a_temperature_near_0_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, -2.0, -5.0], [-300.0, 40.0, 39.0]])
    for temperature in (1e-40, 1e-8):
        for top_p in (1.0, 0.5):
            found, logprobs = pick_with_logprobs(
                logits, torch.tensor([0.5, 0.999]), temperature=temperature, top_p=top_p
            )
            assert found.tolist() == [0, 1]
            assert logprobs[1].tolist() == [0.0, 0.0]
