"""A tiny model whose tokens are bytes, adapters on it, and an engine that serves them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hosting.listener import Listener

from preftune.hosting.engine import Engine
from preftune.hosting.settings import HostingSettings
from preftune.models.adapters import add_lora, save_adapter
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.wire.chat import Answer, Ask, Choice, Done

TEXTS = ["wash it?", "dry it or iron it?", "yes, wash it.", "no, iron the cat – à la main."]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 0.5M parameters; a reply of it is mostly bytes that are no characters."""
    folder = tmp_path_factory.mktemp("hosted") / "tiny"
    return new_model(folder, preset="tiny", texts=TEXTS, vocab_size=320, seed=0, tokenizer="bpe")


@pytest.fixture(scope="session")
def adapter_folders(model_folder: Path) -> list[Path]:
    """Two adapters that change what the model says; the second adapts fewer layers."""
    folders = []
    for seed, targets in ((1, ("all-linear",)), (2, ("q_proj", "down_proj"))):
        model = add_lora(
            load_policy(model_folder),
            LoraSettings(lora_rank=4, lora_alpha=16, lora_targets=targets),
            seed=seed,
        )
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.2, generator=generator)
        folders.append(save_adapter(model, model_folder.parent / f"adapter{seed}"))
    return folders


@pytest.fixture(scope="session")
def reward_folder(model_folder: Path) -> Path:
    model = new_reward_model(model_folder, seed=5)
    return save_reward_model(model, load_chat(model_folder), model_folder.parent / "reward")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with_died: list[bool] = []
    found = Engine(HostingSettings(rows=24), died=lambda: with_died.append(True))
    found.start()
    yield found
    found.close()
    assert not with_died


@pytest.fixture
def answers(engine: Engine) -> Callable[..., list[Answer]]:
    """Ask one thing and return all lines."""

    def answers(**fields: Any) -> list[Answer]:
        return Listener(engine, Ask(**fields)).all()

    return answers


@pytest.fixture
def choices(answers: Callable[..., list[Answer]]) -> Callable[..., list[Choice]]:
    """Ask one thing and return its replies, in the order of their indices."""

    def choices(**fields: Any) -> list[Choice]:
        told = answers(**fields)
        assert isinstance(told[-1], Done), told[-1]
        found = [one for one in told if isinstance(one, Choice)]
        return sorted(found, key=lambda one: one.index)

    return choices
