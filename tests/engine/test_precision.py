import torch
from torch import nn

from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.precision import SMALL, Masters, fast_bf16_on_cpu, resolve
from preftune.engine.settings import OptimizerSettings


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def test_fp32_masters_are_the_models_own_weights() -> None:
    model = net()
    masters = Masters(model, "fp32")
    assert all(masters.weights[name] is p for name, p in model.named_parameters())


def test_bf16_gradients_add_up_in_fp32() -> None:
    """1 + 2^-9 is not a bf16 number: two gradients of these sizes must not be added in bf16."""
    model = nn.Linear(1, 1, bias=False)
    masters = Masters(model, "bf16")
    model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
    model(torch.full((1, 1), 2.0**-9, dtype=torch.bfloat16)).sum().backward()
    master = masters.weights["weight"]
    assert model.weight.grad is None
    assert master.grad is not None
    assert master.grad.item() == 1 + 2.0**-9


def test_small_steps_are_not_lost_in_bf16() -> None:
    """1,000 steps of 1e-5 from 1: a bf16 weight would stay at 1, its neighbours are 2^-8 away."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    masters = Masters(model, "bf16")
    settings = OptimizerSettings(lr=1e-5, schedule="constant", warmup_frac=0.0, epochs=1000.0)
    order = Order(lengths=(1,), batch_size=1, epochs=1000.0, seed=0)
    learner = Learner.of(masters, order, settings)
    for step in range(1000):
        model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        learner.update(step)
    assert abs(masters.weights["weight"].item() - 0.99) < 1e-4
    assert model.weight.item() == torch.tensor(0.99).bfloat16().item()


def test_finish_gives_the_masters_back_in_full() -> None:
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masters = Masters(model, "bf16")
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    whole = masters.finish()
    assert all(torch.equal(p, before[name]) for name, p in whole.named_parameters())
    assert {p.dtype for p in whole.parameters()} == {torch.float32}


def test_auto_is_fp32_for_small_models_and_processors_without_tiles() -> None:
    assert resolve("auto", net()) == torch.float32
    large = nn.Linear(SMALL, 1)
    expected = torch.bfloat16 if fast_bf16_on_cpu() else torch.float32
    assert resolve("auto", large) == expected
