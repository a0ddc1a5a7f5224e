"""Tiny models made on the spot, with weights large enough that their choices are clear."""

from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.models.new import new_model

VOCAB = 13


def tiny_llama(*, seed: int = 0, positions: int = 128) -> LlamaForCausalLM:
    """About 7k parameters, two query heads per key head."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2() -> GPT2LMHeadModel:
    """Learned positions, and dropout that must be off."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=96,
        initializer_range=0.4,
        resid_pdrop=0.5,
        embd_pdrop=0.5,
        eos_token_id=None,
        bos_token_id=None,
    )
    return GPT2LMHeadModel(config).eval()


def tiny_mistral() -> MistralForCausalLM:
    """A sliding window of 6 tokens, shorter than prompt and reply."""
    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=6,
        initializer_range=0.3,
        eos_token_id=None,
        bos_token_id=None,
    )
    return MistralForCausalLM(config).eval()


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="session")
def other_llama() -> LlamaForCausalLM:
    return tiny_llama(seed=9)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    return tiny_gpt2()


@pytest.fixture(scope="session", params=["llama", "gpt2", "mistral"])
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return {"llama": tiny_llama, "gpt2": tiny_gpt2, "mistral": tiny_mistral}[request.param]()


TEXTS = ["wash it ?", "dry it or iron it ?", "yes , wash it .", "no , iron the cat ."]


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh word-level model on disk, with its tokenizer and template."""
    folder = tmp_path_factory.mktemp("models") / "policy"
    return new_model(folder, preset="tiny", texts=TEXTS, vocab_size=64, seed=0, tokenizer="words")


@pytest.fixture(scope="session")
def reward_folder(policy_folder: Path) -> Path:
    """A reward model with a fresh head on the same weights."""
    model = new_reward_model(policy_folder, seed=5)
    return save_reward_model(model, load_chat(policy_folder), policy_folder.parent / "reward")
