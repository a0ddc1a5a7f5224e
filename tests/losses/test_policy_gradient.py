import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.policy_gradient import (
    approx_kl,
    clipped,
    dr_grpo_weights,
    dual_clip_ppo_loss,
    importance_weights,
    log_ratio,
    out_of_limit,
    ppo_loss,
    reinforce_loss,
    sequence_sum_weights,
    sequence_token_weights,
    token_weights,
)

RHO = [1.1, 0.7, 1.3, 1.0]


def tokens(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def ppo(
    rho: float, advantage: float, *, high: float = 0.2, dual_clip: float | None = None
) -> tuple[float, float]:
    """Return the loss of one token and its slope in the log-prob."""
    old = tokens(-1.0)
    logprobs = (old + math.log(rho)).requires_grad_()
    clipped_loss = (
        ppo_loss if dual_clip is None else partial(dual_clip_ppo_loss, dual_clip=dual_clip)
    )
    loss = clipped_loss(
        logprobs=logprobs,
        old_logprobs=old,
        advantages=tokens(advantage),
        clip_low=0.2,
        clip_high=high,
    )
    (slope,) = torch.autograd.grad(loss.sum(), [logprobs])
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("rho", "advantage", "high", "loss", "slope"),
    [
        (1.5, 2, 0.2, -2.4, 0),
        (1.5, -2, 0.2, 3.0, 3.0),
        (0.5, 2, 0.2, -1.0, -1.0),
        (0.5, -2, 0.2, 1.6, 0),
        (5, -2, 0.2, 10.0, 10.0),
        (1.5, 2, 0.28, -2.56, 0),
        (1.1, 2, 0.2, -2.2, -2.2),
        (1.0, 2, 0.2, -2.0, -2.0),
    ],
)
def test_ppo_meets_published_vectors_and_stops_pulling_when_clipped(
    rho: float, advantage: float, high: float, loss: float, slope: float
) -> None:
    assert ppo(rho, advantage, high=high) == pytest.approx((loss, slope))


def test_dual_clip_meets_published_vector_and_stops_pulling() -> None:
    assert ppo(5, -2, dual_clip=3.0) == pytest.approx((6.0, 0))


@given(st.floats(0.01, 100), st.floats(-5, 5), st.floats(1.01, 10))
@settings(max_examples=40)
def test_dual_clip_differs_from_ppo_only_above_its_bound(
    rho: float, advantage: float, dual_clip: float
) -> None:
    plain, dual = ppo(rho, advantage), ppo(rho, advantage, dual_clip=dual_clip)
    if advantage >= 0 or rho < dual_clip - 1e-9:
        assert dual == plain
    else:
        assert dual[0] == pytest.approx(-advantage * dual_clip)


@given(st.floats(-30, 0), st.floats(-5, 5))
@settings(max_examples=40)
def test_first_minibatch_of_ppo_is_the_policy_gradient(logprob: float, advantage: float) -> None:
    now = tokens(logprob).requires_grad_()
    fixed = {"advantages": tokens(advantage)}
    first = ppo_loss(logprobs=now, old_logprobs=now.detach(), clip_low=0.2, clip_high=0.2, **fixed)
    slopes = [
        torch.autograd.grad(loss.sum(), [now])[0].item()
        for loss in (first, reinforce_loss(logprobs=now, advantages=tokens(advantage)))
    ]
    assert first.item() == -advantage  # rho is exactly 1
    assert slopes[0] == slopes[1] == -advantage


@given(st.floats(0.01, 100), st.floats(-5, 5))
@settings(max_examples=40)
def test_ppo_is_a_pessimistic_bound_of_the_unclipped_loss(rho: float, advantage: float) -> None:
    assert ppo(rho, advantage)[0] >= -advantage * rho - 1e-9


@pytest.mark.parametrize("gap", [-800.0, 800.0])
def test_extreme_ratios_stay_finite(gap: float) -> None:
    for advantage in (-1.0, 1.0):
        now = torch.tensor([[gap]], requires_grad=True)  # fp32
        loss = ppo_loss(
            logprobs=now,
            old_logprobs=torch.zeros(1, 1),
            advantages=torch.tensor([[advantage]]),
            clip_low=0.2,
            clip_high=0.2,
        )
        (slope,) = torch.autograd.grad(loss.sum(), [now])
        assert loss.isfinite().all()
        assert slope.isfinite().all()


def test_log_ratio_is_held_and_says_so() -> None:
    now, old = tokens(-1.0, -30.0, 0.0, -20.0), tokens(-1.5, 0.0, -30.0, 0.0)
    assert log_ratio(logprobs=now, old_logprobs=old).tolist() == [[0.5, -20, 20, -20]]
    held = out_of_limit(logprobs=now, old_logprobs=old)
    assert held.tolist() == [[False, True, True, False]]


def test_reinforce_loss_is_the_log_prob_times_the_advantage() -> None:
    now = tokens(-1.0, -2.0).requires_grad_()
    loss = reinforce_loss(logprobs=now, advantages=tokens(2.0, -0.5))
    assert loss.tolist() == [[2.0, -1.0]]
    (slope,) = torch.autograd.grad(loss.sum(), [now])
    assert slope.tolist() == [[-2.0, 0.5]]


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    sampler = tokens(-1.0, -1.0, -1.0)
    trainer = (sampler + tokens(0.5, 1.5, 3.0).log()).requires_grad_()
    weights = importance_weights(trainer_logprobs=trainer, sampler_logprobs=sampler, most=2.0)
    assert weights[0].tolist() == pytest.approx([0.5, 1.5, 2.0])
    assert not weights.requires_grad


def test_importance_weights_repair_the_gradient_of_another_sampler() -> None:
    # tokens drawn from (0.4, 0.4, 0.2), trained as (0.5, 0.3, 0.2): weighted expectation is exact
    sampler, trainer = tokens(0.4, 0.4, 0.2), tokens(0.5, 0.3, 0.2)
    reward = tokens(1.0, 0.0, 4.0)
    weights = importance_weights(
        trainer_logprobs=trainer.log(), sampler_logprobs=sampler.log(), most=2.0
    )
    assert (sampler * weights * reward).sum().item() == pytest.approx((trainer * reward).sum())


def test_diagnostics_meet_published_vectors() -> None:
    now, old = tokens(*RHO).log().requires_grad_(), tokens(0, 0, 0, 0)
    kl = approx_kl(logprobs=now, old_logprobs=old)
    assert kl.mean().item() == pytest.approx(0.024750, abs=1e-6)
    assert not kl.requires_grad
    moved = clipped(logprobs=now, old_logprobs=old, clip_low=0.2, clip_high=0.2)
    assert moved.tolist() == [[False, True, True, False]]
    assert not clipped(logprobs=now, old_logprobs=old, clip_low=0.4, clip_high=0.4).any()


@given(st.floats(-20, 20))
def test_approx_kl_is_never_negative(x: float) -> None:
    assert approx_kl(logprobs=tokens(x), old_logprobs=tokens(0.0)).item() >= 0


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (1.1, 0.2), (0.2, 0.0), (math.nan, 0.2)])
def test_clips_outside_their_range_are_refused(low: float, high: float) -> None:
    one = tokens(0.0)
    with pytest.raises(ValueError, match="clip"):
        ppo_loss(logprobs=one, old_logprobs=one, advantages=one, clip_low=low, clip_high=high)


@pytest.mark.parametrize("dual_clip", [1.0, -3.0, math.nan])
def test_dual_clip_outside_its_range_is_refused(dual_clip: float) -> None:
    with pytest.raises(ValueError, match="dual_clip"):
        ppo(1.0, 1.0, dual_clip=dual_clip)


@pytest.mark.parametrize("most", [0.5, 0.0, math.nan])
def test_weights_that_could_only_shrink_are_refused(most: float) -> None:
    one = tokens(0.0)
    with pytest.raises(ValueError, match="most"):
        importance_weights(trainer_logprobs=one, sampler_logprobs=one, most=most)


# Two responses: 2 tokens with loss 1 each, 6 tokens with loss 0.5 each; the longest allowed is 8.
MASK = torch.tensor([[1] * 2 + [0] * 6, [1] * 6 + [0] * 2], dtype=torch.bool)
LOSSES = torch.tensor([[1.0] * 8, [0.5] * 8], dtype=torch.float64)
REDUCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "token mean": (lambda m: token_weights(m, tokens=8), 0.625),
    "sequence mean of token means": (lambda m: sequence_token_weights(m, sequences=2), 0.75),
    "sequence mean of token sums": (lambda m: sequence_sum_weights(m, sequences=2), 2.5),
    "dr_grpo": (lambda m: dr_grpo_weights(m, sequences=2, longest=8), 0.3125),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_meet_published_vectors_in_one_batch_and_in_parts(name: str) -> None:
    weights, expected = REDUCTIONS[name]
    whole = (weights(MASK) * LOSSES).sum().item()
    parts = sum((weights(MASK[i : i + 1]) * LOSSES[i : i + 1]).sum().item() for i in (1, 0))
    narrow = (weights(MASK[:1, :2]) * LOSSES[:1, :2]).sum() + (weights(MASK[1:]) * LOSSES[1:]).sum()
    assert [whole, parts, narrow.item()] == pytest.approx([expected] * 3, abs=1e-6)
    assert (weights(MASK)[~MASK] == 0).all()


def test_a_row_without_own_tokens_weighs_nothing() -> None:
    with_empty = torch.cat([MASK, torch.zeros(1, 8, dtype=torch.bool)])
    for weights, _ in REDUCTIONS.values():
        assert (weights(with_empty)[2] == 0).all()
        assert weights(with_empty)[:2].equal(weights(MASK))


def test_counts_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens is 0"):
        token_weights(MASK, tokens=0)
    for reduction in (sequence_token_weights, sequence_sum_weights):
        with pytest.raises(ValueError, match="sequences is 0"):
            reduction(MASK, sequences=0)
    with pytest.raises(ValueError, match="longest is 0"):
        dr_grpo_weights(MASK, sequences=2, longest=0)
