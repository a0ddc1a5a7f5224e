"""Several reward models in memory: one copy of a base, scores as of each alone."""

from pathlib import Path

import pytest
import torch

from preftune.errors import ModelError
from preftune.models.chat import load_chat
from preftune.models.heads import load_reward_model, new_reward_model, save_reward_model
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.models.reward_set import RewardSet, load_reward_set
from preftune.models.tokens import TokenSequence
from preftune.types import assistant, make_prompt, user

TEXTS = ["can i put my bear in the washer ? yes , you can .", "hello world"] * 3


def adapter(base: Path, folder: Path, *, seed: int, rank: int = 2, dora: bool = False) -> Path:
    """Save a reward model whose adapter changes what the base says."""
    model = new_reward_model(base, seed=seed, lora=LoraSettings(lora_rank=rank, dora=dora))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.1)
    model.set_normalisation(0.1 * seed, 2.0)
    return save_reward_model(model, load_chat(base), folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases; three adapters on the first, one of them DoRA; one model of its own weights."""
    folder = tmp_path_factory.mktemp("rewards")
    for name, preset in (("base", "tiny"), ("encoder", "encoder")):
        new_model(
            folder / name, preset=preset, texts=TEXTS, vocab_size=300, seed=0, tokenizer="bpe"
        )
    adapter(folder / "base", folder / "one", seed=1)
    adapter(folder / "base", folder / "two", seed=2, rank=4)
    adapter(folder / "base", folder / "three", seed=3, dora=True)
    for name, base in (("whole", "base"), ("reads_both_ways", "encoder")):
        model = new_reward_model(folder / base, seed=7)
        save_reward_model(model, load_chat(folder / base), folder / name)
    return folder


NAMES = ("one", "whole", "two", "three", "reads_both_ways")


@pytest.fixture(scope="module")
def rewards(world: Path) -> RewardSet:
    return load_reward_set([world / name for name in NAMES])


def sequences(folder: Path) -> list[TokenSequence]:
    chat, prompt = load_chat(folder), make_prompt(user("can i put my bear in the washer ?"))
    return [chat.encode(prompt, (assistant(answer),)) for answer in ("yes .", "hello world", "no")]


@torch.no_grad()
def test_scores_are_those_of_each_model_alone_in_any_order(world: Path, rewards: RewardSet) -> None:
    for places in (range(5), (3, 0, 2, 0, 1, 4)):
        for place in places:
            rows = sequences(world / NAMES[place])
            alone = load_reward_model(world / NAMES[place])(rows)
            assert torch.equal(rewards.on(rewards.members[place])(rows), alone)


def test_adapters_of_one_base_share_one_copy(rewards: RewardSet) -> None:
    one, whole, two, three, _ = (member.model for member in rewards.members)
    assert one.backbone is two.backbone is three.backbone
    assert whole.backbone is not one.backbone
    tensors = {id(p): p for member in rewards.members for p in member.model.parameters()}
    assert rewards.bytes == sum(p.numel() * 4 for p in tensors.values())
    base = sum(p.numel() for p in whole.backbone.parameters())
    shared, *_ = rewards.describe()
    assert (shared.parameters, shared.bytes) == (base, 4 * base)
    assert f"backbone of {rewards.members[0].name}, {rewards.members[2].name}" in shared.what
    assert str(shared).endswith(f"{base:,} parameters, {4 * base / 2**20:.1f} MB")


def test_nothing_in_a_set_is_trainable(rewards: RewardSet) -> None:
    for member in rewards.members:
        model = rewards.on(member)
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_names_change_with_any_weight_and_only_then(world: Path, tmp_path: Path) -> None:
    again = load_reward_set([world / "one", world / "two"])
    names = [member.name for member in again.members]
    assert names[0].startswith("one@")
    assert names == [m.name for m in load_reward_set([world / "one", world / "two"]).members]
    adapter(world / "base", tmp_path / "one", seed=9)
    (other,) = load_reward_set([tmp_path / "one"]).members
    assert other.name.startswith("one@")
    assert other.name != names[0]


def test_folders_that_make_no_set_are_refused(world: Path) -> None:
    with pytest.raises(ModelError, match="none given"):
        load_reward_set([])
    with pytest.raises(ModelError, match="given twice"):
        load_reward_set([world / "one", world / "two", world / ".." / world.name / "one"])
    with pytest.raises(ModelError, match="not a reward model"):
        load_reward_set([world / "one", world / "base"])
