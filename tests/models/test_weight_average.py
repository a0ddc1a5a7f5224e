"""The average of reward models' weights, whole models and adapters alike."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from preftune.errors import ModelError
from preftune.files import read_json, write_json
from preftune.models.chat import load_chat
from preftune.models.heads import (
    RewardModel,
    load_reward_model,
    new_reward_model,
    save_reward_model,
)
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.models.weight_average import average_reward_models

TEXTS = ["can i put my bear in the washer ? yes , you can .", "hello world"] * 3
MADE: dict[str, Any] = {"texts": TEXTS, "vocab_size": 300, "seed": 0, "tokenizer": "bpe"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("average") / "base"
    return new_model(folder, preset="tiny", **MADE)


def changed(base: Path, folder: Path, *, seed: int, **lora: Any) -> Path:
    """Save a reward model with random changes of all that would be trained."""
    settings = LoraSettings(**lora) if lora else None
    model = new_reward_model(base, seed=seed, lora=settings)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.set_normalisation(seed, 3.0)
    about: dict[str, str | float] = {} if lora else {"started_from": "ab12"}
    return save_reward_model(model, load_chat(base), folder, about=about)


def merged(folder: Path) -> RewardModel:
    """Return a reward model with its adapter, if any, added into the weights."""
    model = load_reward_model(folder)
    if hasattr(model.backbone, "merge_and_unload"):
        model.backbone = model.backbone.merge_and_unload()
    return model


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 2, "lora_alpha": 8.0}])
def test_every_weight_is_the_mean_of_theirs(
    base: Path, tmp_path: Path, lora: dict[str, float]
) -> None:
    folders = [changed(base, tmp_path / f"m{k}", seed=k, **lora) for k in (1, 2, 3)]
    out = average_reward_models(folders, tmp_path / "out")
    means = [merged(folder).state_dict() for folder in folders]
    found = merged(out)
    assert not found.normalised
    for name, tensor in found.state_dict().items():
        if name in ("mean", "std"):
            continue
        mean = torch.stack([one[name].double() for one in means]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, atol=2e-6, rtol=1e-5)
    assert read_json(out / "reward_model.json")["averaged_from"] == "m1, m2, m3"


def test_adapters_of_different_rank_average_as_well(base: Path, tmp_path: Path) -> None:
    folders = [
        changed(base, tmp_path / "small", seed=1, lora_rank=1),
        changed(base, tmp_path / "large", seed=2, lora_rank=3),
    ]
    found = merged(average_reward_models(folders, tmp_path / "out")).state_dict()
    name = "backbone.layers.0.mlp.down_proj.weight"
    small, large = (merged(folder).state_dict()[name] for folder in folders)
    torch.testing.assert_close(found[name], (small + large) / 2, atol=2e-6, rtol=1e-5)


def refusal(folders: list[Path]) -> str:
    """Return what is said of models that have no average; nothing may be written."""
    out = folders[0].parent / "out"
    with pytest.raises(ModelError) as refused:
        average_reward_models(folders, out)
    assert not out.exists()
    return str(refused.value)


def test_one_model_or_an_old_folder_is_refused(base: Path, tmp_path: Path) -> None:
    folders = [changed(base, tmp_path / f"m{k}", seed=k) for k in (1, 2)]
    assert "one model has no average" in refusal(folders[:1])
    with pytest.raises(ModelError, match="is there already"):
        average_reward_models(folders, base)


def test_whole_models_of_another_start_are_refused(base: Path, tmp_path: Path) -> None:
    first, second = (changed(base, tmp_path / f"m{k}", seed=k) for k in (1, 2))
    said = read_json(second / "reward_model.json")
    write_json(second / "reward_model.json", {**said, "started_from": "cd34"})
    assert "start cd34, and " in refusal([first, second])


def test_other_kinds_tokens_and_shapes_are_refused(base: Path, tmp_path: Path) -> None:
    first = changed(base, tmp_path / "first", seed=1)
    encoder = new_model(tmp_path / "e", preset="encoder", **MADE)
    assert "kind encoder, and" in refusal([first, changed(encoder, tmp_path / "both", seed=2)])
    shallow = shutil.copytree(base, tmp_path / "shallow")
    config = LlamaConfig.from_pretrained(base, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(shallow)
    assert "other names or shapes" in refusal([first, changed(shallow, tmp_path / "low", seed=2)])
    second = changed(base, tmp_path / "second", seed=2)
    template = second / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert "different chat templates" in refusal([first, second])


def test_adapters_that_do_not_belong_together_are_refused(base: Path, tmp_path: Path) -> None:
    first = changed(base, tmp_path / "first", seed=1, lora_rank=2)
    whole = changed(base, tmp_path / "whole", seed=2)
    assert "base None, and" in refusal([first, whole])
    copy = shutil.copytree(base, tmp_path / "copy")
    other = changed(copy, tmp_path / "other", seed=2, lora_rank=2)
    assert f"base {copy.resolve()}, and" in refusal([first, other])
    few = changed(base, tmp_path / "few", seed=2, lora_rank=2, lora_targets=("q_proj",))
    assert "adapted layers ['q_proj'], and" in refusal([first, few])
    dora = changed(base, tmp_path / "dora", seed=2, lora_rank=2, dora=True)
    assert "only plain LoRA adapters are averaged" in refusal([first, dora])
