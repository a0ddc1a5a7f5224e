"""The sampler's log-probs of the tokens it drew are the trainer's log-probs of these tokens.

The bound is on single tokens, in fp32: the ratio of the two policies that PPO sees is then 1 to
four digits before the first update, so no importance is corrected that is mere rounding.
"""

from typing import Any

import pytest
import torch
from tests.engine.test_core import SHARED, model_of

from preftune.engine.core import Core
from preftune.engine.settings import EngineSettings
from preftune.inference.generate import GenerateSettings, generate
from preftune.models.adapters import add_lora
from preftune.models.lora import LoraSettings
from preftune.models.tokens import TokenSequence

BOUND = 1e-4  # nats a token
KINDS = ("llama", "qwen3", "mistral", "gemma2", "phi3", "gpt2", "gpt_neox", "olmo2")
PROMPTS = [(5, 6, 7, 8), (9, 10), (5, 6, 7, 8), (11, 12, 13, 14, 15, 16, 17)]
END = 2


def adapted(kind: str) -> Any:
    """A random model under an adapter that is not a fresh one, so it moves every log-prob."""
    model = add_lora(model_of(kind, **SHARED[kind]), LoraSettings(lora_rank=4), seed=1)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)
    return model.eval()


def trained_on(model: Any, drawn: Any, *, temperature: float) -> list[list[float]]:
    """The trainer's log-probs of each drawn token, responses to one prompt in one row."""
    core = Core.of(model, EngineSettings())
    core.temperature, core.worth = temperature, 0.0
    rows: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(PROMPTS):
        rows.setdefault(prompt, []).append(place)
    sequences = [
        [
            TokenSequence(
                prompt_ids=prompt,
                response_ids=drawn[place].ids,
                own=(False,) * len(prompt) + (True,) * len(drawn[place].ids),
            )
            for place in places
        ]
        for prompt, places in rows.items()
    ]
    with torch.no_grad():
        found = core.token_logprobs(sequences)
    told = [row[own].tolist() for row, own in zip(found.logprobs, found.own, strict=True)]
    order = [place for places in rows.values() for place in places]
    return [logprobs for _, logprobs in sorted(zip(order, told, strict=True))]


@pytest.mark.parametrize("kind", KINDS)
def test_sampler_and_trainer_agree_on_every_token(kind: str) -> None:
    model = adapted(kind)
    for temperature in (1.0, 0.7):
        drawn = generate(
            model,
            PROMPTS,
            GenerateSettings(max_new_tokens=12, temperature=temperature),
            seeds=[1, 2, 3, 4],
            end_ids=(END,),
            pad_id=0,
        )
        found = trained_on(model, drawn, temperature=temperature)
        assert sum(map(len, found)) >= 12
        for reply, logprobs in zip(drawn, found, strict=True):
            assert list(reply.sampled_logprobs) == pytest.approx(logprobs, abs=BOUND)


def test_the_bound_tells_the_adapter_from_its_base() -> None:
    # so the agreement above is of the adapted model, not of the one below it
    model = adapted("llama")
    settings = GenerateSettings(max_new_tokens=12)
    drawn = generate(model, PROMPTS, settings, seeds=[1, 2, 3, 4], end_ids=(END,), pad_id=0)
    with model.disable_adapter():
        found = trained_on(model, drawn, temperature=1.0)
    apart = [
        abs(a - b)
        for reply, logprobs in zip(drawn, found, strict=True)
        for a, b in zip(reply.sampled_logprobs, logprobs, strict=True)
    ]
    assert max(apart) > 100 * BOUND
