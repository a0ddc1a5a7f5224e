import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.losses.tokens import ld_logps, sampo_keep, token_mean_nll, wpo_weight

CHOSEN_POLICY = [-1.0, -2.0, -1.0, -3.0, -3.0]
CHOSEN_REFERENCE = [-1.5, -2.0, -1.5, -3.5, -3.5]
REJECTED_POLICY = [-1.0, -2.0, -1.5, -2.5, -1.0, -2.0, -2.0, -2.0]
REJECTED_REFERENCE = [-1.0, -1.5, -1.5, -2.5, -1.0, -2.0, -1.5, -2.0]


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def row(values: list[float]) -> tuple[Tensor, Tensor]:
    """One response as a row of own tokens only."""
    return number(*values).unsqueeze(0), torch.ones(1, len(values), dtype=torch.bool)


def ld(values: list[float], other: int, alpha: float) -> Tensor:
    logprobs, mask = row(values)
    return ld_logps(logprobs=logprobs, mask=mask, other_lengths=torch.tensor([other]), alpha=alpha)


def ld_margin(alpha: float) -> tuple[Tensor, Tensor]:
    chosen = ld(CHOSEN_POLICY, 8, alpha) - ld(CHOSEN_REFERENCE, 8, alpha)
    rejected = ld(REJECTED_POLICY, 5, alpha) - ld(REJECTED_REFERENCE, 5, alpha)
    return chosen, rejected


@pytest.mark.parametrize(
    ("alpha", "margin", "value"),
    [(0.0, 2.5, 0.575939), (0.5, 2.75, 0.565071), (1.0, 3.0, 0.554355)],
)
def test_ld_dpo_meets_published_vectors(alpha: float, margin: float, value: float) -> None:
    chosen, rejected = ld_margin(alpha)
    assert (chosen - rejected).item() == pytest.approx(margin)
    loss = logistic_loss(dpo_logit(chosen_logratio=chosen, rejected_logratio=rejected, beta=0.1))
    assert loss.item() == pytest.approx(value, abs=1e-6)


def test_ld_logps_of_the_shorter_response_is_its_plain_sum() -> None:
    assert ld(CHOSEN_POLICY, 8, 0.0).item() == -10.0


def test_ld_logps_gradient_is_one_in_the_head_and_alpha_in_the_tail() -> None:
    logprobs, mask = row(REJECTED_POLICY)
    logprobs.requires_grad_()
    value = ld_logps(logprobs=logprobs, mask=mask, other_lengths=torch.tensor([5]), alpha=0.3)
    (gradient,) = torch.autograd.grad(value.sum(), [logprobs])
    assert gradient.tolist() == [[1.0] * 5 + [0.3] * 3]


def test_ld_logps_reads_own_tokens_wherever_they_stand() -> None:
    # own: 1, 2, 4 (second and third in the head, 4 in the tail); the others are never read
    logprobs = number(math.nan, -1.0, math.inf, -2.0, -4.0, -1e9).unsqueeze(0)
    mask = torch.tensor([[False, True, False, True, True, False]])
    value = ld_logps(logprobs=logprobs, mask=mask, other_lengths=torch.tensor([2]), alpha=0.5)
    assert value.item() == -5.0


def test_ld_logps_of_a_row_without_own_tokens_is_zero() -> None:
    value = ld_logps(
        logprobs=number(-1.0, -2.0).unsqueeze(0),
        mask=torch.zeros(1, 2, dtype=torch.bool),
        other_lengths=torch.tensor([3]),
        alpha=0.5,
    )
    assert value.item() == 0.0


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_ld_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        ld(CHOSEN_POLICY, 8, alpha)


def sampo_draws(seeds: int) -> Tensor:
    """One draw per seed of 5 of the 8 rejected tokens."""
    mask = torch.ones(seeds, 8, dtype=torch.bool)
    lengths = torch.full((seeds,), 5)
    return sampo_keep(mask=mask, other_lengths=lengths, seeds=range(seeds))


def test_sampo_over_all_draws_meets_published_vectors() -> None:
    draws = {tuple(keep) for keep in sampo_draws(1000).tolist()}
    assert len(draws) == math.comb(8, 5)
    h = number(*REJECTED_POLICY) - number(*REJECTED_REFERENCE)
    margins = torch.stack([2.0 - h[list(keep)].sum() for keep in sorted(draws)])
    assert {m: margins.tolist().count(m) for m in (2.0, 2.5, 3.0)} == {2.0: 6, 2.5: 30, 3.0: 20}
    assert margins.mean().item() == pytest.approx(2.625)
    assert logistic_loss(0.1 * margins).mean().item() == pytest.approx(0.570609, abs=1e-6)


def test_sampo_draws_every_set_of_tokens_equally_often() -> None:
    keeps = sampo_draws(5600)
    counts = [
        int(keeps[:, list(kept)].all(-1).sum()) for kept in combinations(range(8), 5)
    ]  # 100 expected each
    chi_square = sum((count - 100) ** 2 / 100 for count in counts)
    assert chi_square < 93.2  # 99.9 % point of chi square with 55 degrees of freedom


def test_sampo_keeps_the_whole_shorter_response() -> None:
    mask = torch.tensor([[False, True, True, False]])
    assert sampo_keep(mask=mask, other_lengths=torch.tensor([5]), seeds=[1]).equal(mask)


def test_sampo_draw_depends_on_the_seed_alone() -> None:
    mask = torch.ones(3, 8, dtype=torch.bool)
    lengths = torch.tensor([5, 4, 3])
    together = sampo_keep(mask=mask, other_lengths=lengths, seeds=[7, 8, 9])
    padded = torch.cat([mask[1:2], torch.zeros(1, 4, dtype=torch.bool)], dim=-1)
    alone = sampo_keep(mask=padded, other_lengths=lengths[1:2], seeds=[8])
    assert alone[:, :8].equal(together[1:2])
    assert not alone[:, 8:].any()
    assert together.sum(-1).tolist() == [5, 4, 3]


def test_sampo_wants_one_seed_per_row() -> None:
    with pytest.raises(ValueError, match="seed"):
        sampo_keep(
            mask=torch.ones(2, 3, dtype=torch.bool), other_lengths=torch.tensor([1, 1]), seeds=[0]
        )


def weight(probabilities: list[float], tokens: list[int]) -> Tensor:
    p = number(*probabilities)
    logprobs, mask = row([math.log(probabilities[token]) for token in tokens])
    collision = p.square().sum().log().expand_as(logprobs)
    return wpo_weight(logprobs=logprobs, log_collision=collision, mask=mask)


def test_wpo_meets_published_vectors() -> None:
    p = [0.5, 0.3, 0.2]
    chosen, rejected = weight(p, [0, 2]), weight(p, [1, 1, 0])
    assert chosen.item() == pytest.approx(0.832178, abs=1e-6)
    assert rejected.item() == pytest.approx(0.936025, abs=1e-6)
    weighted = chosen * rejected * logistic_loss(number(0.3))
    assert weighted.item() == pytest.approx(0.431809, abs=1e-6)


@pytest.mark.parametrize("length", [1, 3, 50])
def test_wpo_weight_of_a_uniform_policy_is_one(length: int) -> None:
    assert weight([0.25] * 4, [0] * length).item() == pytest.approx(1.0)


def test_wpo_weight_carries_no_gradient_and_ignores_other_tokens() -> None:
    logprobs = number(-1.0, -1e9).unsqueeze(0).requires_grad_()
    value = wpo_weight(
        logprobs=logprobs,
        log_collision=number(-1.0, math.nan).unsqueeze(0),
        mask=torch.tensor([[True, False]]),
    )
    assert value.item() == 1.0
    assert not value.requires_grad


def test_token_mean_nll_meets_published_sums() -> None:
    logprobs, mask = row(CHOSEN_POLICY)
    nll = token_mean_nll(logprobs=logprobs, mask=mask)
    plain = logistic_loss(number(0.3))
    assert nll.item() == 2.0
    assert (plain + 0.2 * nll).item() == pytest.approx(0.954355, abs=1e-6)
    assert (plain + nll).item() == pytest.approx(2.554355, abs=1e-6)


def test_token_mean_nll_gradient_is_shared_by_own_tokens() -> None:
    logprobs = number(-1.0, -7.0, -2.0).unsqueeze(0).requires_grad_()
    nll = token_mean_nll(logprobs=logprobs, mask=torch.tensor([[True, False, True]]))
    (gradient,) = torch.autograd.grad(nll.sum(), [logprobs])
    assert gradient.tolist() == [[-0.5, 0.0, -0.5]]


def test_a_row_without_own_tokens_has_no_mean() -> None:
    logprobs = number(-1.0, -2.0).unsqueeze(-1)
    mask = torch.tensor([[True], [False]])
    with pytest.raises(ValueError, match="row 1"):
        token_mean_nll(logprobs=logprobs, mask=mask)
    with pytest.raises(ValueError, match="row 1"):
        wpo_weight(logprobs=logprobs, log_collision=logprobs, mask=mask)
