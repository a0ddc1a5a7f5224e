"""A learner gives all a checkpoint must hold and goes on from it to the last bit."""

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from preftune.engine.batches import Order
from preftune.engine.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    save_checkpoint,
    write_manifest,
)
from preftune.engine.learner import Learner
from preftune.engine.settings import OptimizerSettings
from preftune.errors import CheckpointError


def learner(*, width: int = 4) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.Linear(width, 1))
    order = Order(lengths=(1,) * 8, batch_size=2, epochs=3.0, seed=0)
    return Learner.of(model, order, OptimizerSettings(lr=0.01))


def learn(learning: Learner, *steps: int) -> None:
    for step in steps:
        inputs = torch.full((2, 3), 0.1 * step)
        learning.model(inputs).sub(1.0).square().sum().backward()
        learning.update(step)
        learning.extra["mean"] = learning.extra.get("mean", torch.zeros(())) + 0.1 * step


def saved(root: Path, learning: Learner) -> Checkpoint:
    save_checkpoint(root, step=3, tensors=learning.tensors(), state={}, origin={})
    checkpoint, _ = newest_checkpoint(root, origin={})
    assert checkpoint is not None
    return checkpoint


def assert_equal(first: Learner, second: Learner) -> None:
    a, b = first.tensors(), second.tensors()
    assert a.keys() == b.keys() == {"model", "optimizer", "extra"}
    for group, named in a.items():
        assert named.keys() == b[group].keys()
        assert all(torch.equal(tensor, b[group][name]) for name, tensor in named.items())


def test_a_restored_learner_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, first, second = learner(), learner(), learner()
    learn(whole, *range(6))
    learn(first, *range(3))
    checkpoint = saved(tmp_path, first)
    second.extra["stale"] = torch.ones(1)
    second.restore(checkpoint)
    assert_equal(first, second)
    learn(second, *range(3, 6))
    assert_equal(whole, second)
    assert second.extra["mean"].item() == pytest.approx(1.5)  # .1 * (0 + 1 + 2 + 3 + 4 + 5)


def test_restored_tensors_are_not_the_file(tmp_path: Path) -> None:
    first, second = learner(), learner()
    learn(first, 0)
    checkpoint = saved(tmp_path, first)
    second.restore(checkpoint)
    learn(second, 1)
    second.extra["mean"].add_(5.0)
    assert torch.equal(checkpoint.tensors("extra")["mean"], first.extra["mean"])


def test_tensors_names_all_moments_of_every_weight() -> None:
    learning = learner()
    learn(learning, 0)
    names = {f"{layer}.{kind}" for layer in "012" for kind in ("weight", "bias")}
    slots = {f"{name}/{slot}" for name in names for slot in ("step", "exp_avg", "exp_avg_sq")}
    groups = learning.tensors()
    assert groups["model"].keys() == names
    assert groups["optimizer"].keys() == slots


def test_frozen_weights_are_not_saved() -> None:
    model = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 1))
    order = Order(lengths=(1,), batch_size=1, epochs=1.0, seed=0)
    learning = Learner.of(model, order, OptimizerSettings())
    assert learning.tensors()["model"].keys() == {"1.weight", "1.bias"}


def test_checkpoint_of_another_model_names_the_tensor_and_changes_nothing(tmp_path: Path) -> None:
    first, second = learner(), learner(width=5)
    learn(first, 0)
    before = {name: p.detach().clone() for name, p in second.model.named_parameters()}
    match = r"another model: 0\.bias is float32 \[4\] there and float32 \[5\] here"
    with pytest.raises(CheckpointError, match=match):
        second.restore(saved(tmp_path, first))
    assert all(torch.equal(p, before[name]) for name, p in second.model.named_parameters())
    assert second.extra == {}
    assert not second.optimizer.state


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("dtype", r"2\.bias is float64 \[1\] there and float32 \[1\] here"),
        ("missing", r"2\.bias is missing there"),
        ("additional", r"3\.bias is float32 \[1\] there and missing here"),
        ("stranger-in-optimizer", r"other is trained there and missing here"),
    ],
    ids=["dtype", "missing", "additional", "stranger-in-optimizer"],
)
def test_tensors_that_are_not_the_models_are_named(tmp_path: Path, change: str, match: str) -> None:
    first = learner()
    learn(first, 0)
    groups = first.tensors()
    model = groups["model"]
    if change == "dtype":
        model["2.bias"] = model["2.bias"].double()
    elif change == "missing":
        del model["2.bias"]
    elif change == "additional":
        model["3.bias"] = torch.zeros(1)
    else:
        groups["optimizer"]["other/step"] = torch.ones(())
    save_checkpoint(tmp_path, step=1, tensors=groups, state={}, origin={})
    checkpoint, _ = newest_checkpoint(tmp_path, origin={})
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match=match):
        learner().restore(checkpoint)


def test_t16_a_name_written_twice_in_a_header_does_not_slip_past(tmp_path: Path) -> None:
    # safetensors keeps the last of two entries with one name: the shape that counts is the loaded
    first = nn.Linear(4, 1, bias=False)
    entry = {"dtype": "F32", "data_offsets": [0, 16]}
    right, wrong = (json.dumps(entry | {"shape": shape}) for shape in ([1, 4], [2, 2]))
    header = f'{{"weight":{right},"weight":{wrong}}}'
    checkpoint = Checkpoint(folder=tmp_path, step=1, state={})
    raw = struct.pack("<Q", len(header)) + header.encode() + bytes(16)
    (tmp_path / "model.safetensors").write_bytes(raw)
    write_manifest(tmp_path, step=1)
    order = Order(lengths=(1,), batch_size=1, epochs=1.0, seed=0)
    learning = Learner.of(first, order, OptimizerSettings())
    with pytest.raises(CheckpointError, match=r"weight is float32 \[2, 2\] there"):
        learning.restore(checkpoint)
