"""A checkpoint is whole or absent; nothing damaged is ever loaded (R4, R5)."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from preftune.engine.checkpoint import (
    MANIFEST,
    newest_checkpoint,
    restore,
    save_checkpoint,
    verify,
)
from preftune.engine.optimizer import adamw
from preftune.engine.settings import OptimizerSettings
from preftune.errors import CheckpointError


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    optimizer = adamw(net, OptimizerSettings())
    net(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return net, optimizer


def save(root: Path, *steps: int) -> nn.Module:
    net, optimizer = trained()
    for step in steps:
        save_checkpoint(root, step=step, model=net, optimizer=optimizer, state={"note": "kept"})
    return net


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    net = save(tmp_path, 5)
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state["note"], notes) == (5, "kept", [])
    other = nn.Linear(4, 3)
    restore(checkpoint, model=other, optimizer=adamw(other, OptimizerSettings()))
    assert torch.equal(other.weight, net.get_parameter("weight"))


def test_two_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 1_000_000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-1000000"]


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") == (None, [])


def test_r05_every_flipped_bit_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "step-000001"
    files = sorted(p for p in folder.iterdir() if p.name != MANIFEST)
    rng = random.Random(0)
    for _ in range(200):
        file = rng.choice(files)
        whole = file.read_bytes()
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        problem = verify(folder)
        assert problem is not None
        assert file.name in problem
        file.write_bytes(whole)
    assert verify(folder) is None


@pytest.mark.parametrize("damage", ["cut", "missing", "extra", "manifest", "swapped"])
def test_r05_damaged_newest_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, damage: str
) -> None:
    save(tmp_path, 1, 2)
    newest = tmp_path / "step-000002"
    model = newest / "model.safetensors"
    if damage == "cut":
        model.write_bytes(model.read_bytes()[:-1])
    elif damage == "missing":
        model.unlink()
    elif damage == "extra":
        (newest / "extra.safetensors").write_bytes(b"x")
    elif damage == "manifest":
        (newest / MANIFEST).write_text("{")
    else:
        shutil.copy(newest / "optimizer.safetensors", model)
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert len(notes) == 1
    assert "corrupt" in notes[0]
    assert (tmp_path / "step-000002.corrupt").is_dir()


def test_a_temporary_folder_never_counts(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000001", tmp_path / ".step-000009.x.tmp")
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    other = nn.Linear(5, 3)
    with pytest.raises(CheckpointError, match="another model"):
        restore(checkpoint, model=other, optimizer=adamw(other, OptimizerSettings()))
