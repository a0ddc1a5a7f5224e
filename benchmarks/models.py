"""The random models S, M and V: made once into a cache folder, the same bytes every time."""

import math
import os
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.sizes import PRESETS, VOCABULARY
from preftune.files import atomic_folder
from preftune.models.load import save_weights
from preftune.models.new import train_tokenizer
from preftune.models.presets import model_config

MOST_PIECES = 32_000  # the text has no more to give; ids above stay unused


def default_cache() -> Path:
    """Return the folder that models and pairs are kept in between runs."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "preftune-benchmarks"


def make_model(name: str, texts: list[str], folder: Path) -> Path:
    """Write a model with random weights and a tokenizer trained on the texts, unless it is there.

    Args:
        name: S, M or V.
        texts: what the tokenizer learns its pieces from.
        folder: where the model goes.
    """
    if folder.is_dir():
        return folder
    preset = PRESETS[name]
    pieces = min(VOCABULARY[name], MOST_PIECES)
    tokenizer = train_tokenizer(texts, preset=preset, kind="bpe", vocab_size=pieces)
    config = model_config(
        preset,
        vocab_size=VOCABULARY[name],
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with atomic_folder(folder) as writing:
        save_weights(LlamaForCausalLM(config), writing)
        tokenizer.save_pretrained(str(writing))
    return folder


def reward_head(width: int) -> Tensor:
    """Return the fresh weights `[1 D]` of the reward head that both sides start from."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, width, generator=generator).div(math.sqrt(width + 1))
