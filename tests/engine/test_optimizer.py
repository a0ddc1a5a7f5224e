import math

import pytest
import torch
from torch import nn

from preftune.engine.optimizer import (
    Part,
    adamw,
    load_optimizer_tensors,
    lr_factor,
    optimizer_step,
    optimizer_tensors,
)
from preftune.engine.precision import trainable
from preftune.engine.settings import OptimizerSettings


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, *, max_grad_norm: float = 0.0) -> float:
    net(torch.ones(2, 3)).square().sum().backward()
    found = optimizer_step(trainable(net), optimizer, lr=0.01, max_grad_norm=max_grad_norm)
    return found["grad_norm"]


def test_a_gradient_that_is_no_number_is_not_learnt() -> None:
    net = model()
    weights = trainable(net)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = adamw(weights, OptimizerSettings())
    for weight in weights.values():
        weight.grad = torch.full_like(weight, 1.0)
    weights["0.bias"].grad = torch.tensor([math.inf, 1.0, 1.0, 1.0])
    assert optimizer_step(weights, optimizer, lr=0.01, max_grad_norm=1.0) == {"grad_norm": math.inf}
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert all(weight.grad is None for weight in weights.values())


def test_schedules_at_known_points() -> None:
    def at(step: int, schedule: str) -> float:
        return lr_factor(step, steps=110, warmup_frac=10 / 110, schedule=schedule)  # type: ignore[arg-type]  # a parameter of the test

    assert at(0, "linear") == pytest.approx(0.1)  # never 0: the first step teaches
    assert at(9, "cosine") == pytest.approx(1.0)
    assert at(60, "linear") == pytest.approx(0.5)
    assert at(60, "cosine") == pytest.approx(0.5)
    assert at(35, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert at(109, "constant") == 1.0
    assert 0 < at(109, "cosine") < 0.001


def test_first_adamw_step_moves_each_weight_by_the_learning_rate() -> None:
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    learn(net, adamw(trainable(net), OptimizerSettings()))
    for name, p in net.named_parameters():
        moved = (p.detach() - before[name]).abs()
        assert moved.max().item() == pytest.approx(0.01, rel=1e-3)


def test_gradient_is_clipped_and_its_norm_before_is_returned() -> None:
    net = model()
    net(torch.ones(2, 3)).square().sum().backward()
    norm = math.sqrt(
        sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)
    )
    sgd = torch.optim.SGD(net.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten() for p in net.parameters()])
    found = optimizer_step(trainable(net), sgd, lr=1.0, max_grad_norm=0.5)
    assert found == {"grad_norm": pytest.approx(norm, rel=1e-5)}
    after = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert (after - before).norm().item() == pytest.approx(min(0.5, norm), rel=1e-4)
    assert all(p.grad is None for p in net.parameters())


def test_each_part_is_clipped_apart_and_has_a_learning_rate_of_its_own() -> None:
    net = model()
    parts = (Part(name="critic", mark="2.", lr_factor=10.0), Part(mark="0."))
    optimizer = adamw(trainable(net), OptimizerSettings(), parts)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net(torch.ones(2, 3)).square().sum().backward()
    expected = {part.mark: norm_of(net, part.mark) for part in parts}
    found = optimizer_step(trainable(net), optimizer, lr=0.001, max_grad_norm=1e-3, parts=parts)
    assert found == {
        "grad_norm": pytest.approx(expected["0."], rel=1e-5),
        "critic_grad_norm": pytest.approx(expected["2."], rel=1e-5),
    }
    moved = {name: (p.detach() - before[name]).abs().max() for name, p in net.named_parameters()}
    assert moved["0.weight"].item() == pytest.approx(0.001, rel=1e-2)
    assert moved["2.weight"].item() == pytest.approx(0.01, rel=1e-2)
    assert moved["1.weight"].item() == 0.0  # of no part: not trained


def norm_of(net: nn.Module, prefix: str) -> float:
    grads = [p.grad for name, p in net.named_parameters() if name.startswith(prefix)]
    return math.sqrt(sum(float(grad.square().sum()) for grad in grads if grad is not None))


def test_only_matrices_decay() -> None:
    net = model()
    optimizer = adamw(trainable(net), OptimizerSettings(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {decay[id(p)] for p in net.parameters() if p.ndim == 2} == {0.1}
    assert {decay[id(p)] for p in net.parameters() if p.ndim == 1} == {0.0}


def test_state_put_back_goes_on_bit_for_bit() -> None:
    settings = OptimizerSettings()
    net = model()
    optimizer = adamw(trainable(net), settings)
    for _ in range(3):
        learn(net, optimizer)
    saved = {name: t.clone() for name, t in optimizer_tensors(trainable(net), optimizer).items()}
    weights = {name: t.clone() for name, t in net.state_dict().items()}
    for _ in range(2):
        learn(net, optimizer)

    other = model()
    other.load_state_dict(weights)
    fresh = adamw(trainable(other), settings)
    load_optimizer_tensors(trainable(other), fresh, saved)
    for _ in range(2):
        learn(other, fresh)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
