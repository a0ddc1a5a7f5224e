"""V7: raters who like length. R-DPO with their slope forgets length; plain DPO grows with it."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.losses.length import length_normalised_logit, r_dpo_logit
from preftune.losses.tokens import ld_logps, sampo_keep

Logit = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # h chosen, rejected; n chosen, rejected


def plain(h_w: Tensor, h_l: Tensor, n_w: Tensor, n_l: Tensor, *, beta: float) -> Tensor:
    return dpo_logit(chosen_logratio=h_w, rejected_logratio=h_l, beta=beta)


def regularised(
    h_w: Tensor, h_l: Tensor, n_w: Tensor, n_l: Tensor, *, beta: float, alpha: float
) -> Tensor:
    return r_dpo_logit(
        chosen_logratio=h_w,
        rejected_logratio=h_l,
        chosen_lengths=n_w,
        rejected_lengths=n_l,
        beta=beta,
        alpha=alpha,
    )


def normalised(h_w: Tensor, h_l: Tensor, n_w: Tensor, n_l: Tensor, *, beta: float) -> Tensor:
    return length_normalised_logit(
        chosen_logratio=h_w,
        rejected_logratio=h_l,
        chosen_lengths=n_w,
        rejected_lengths=n_l,
        beta=beta,
    )


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where the loss is least, from `start`."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=300,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach()


class QualityAndLength:
    """4 prompts x 8 responses with a quality and a length; labels follow dq + .05 dl."""

    beta, slope = 0.5, 0.05

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.reference = torch.tensor(rng.standard_normal((4, 8))).log_softmax(-1)
        self.quality = torch.tensor(rng.standard_normal((4, 8)))
        self.length = torch.tensor(rng.integers(5, 46, (4, 8)).astype(np.float64))
        self.first, self.second = torch.nonzero(~torch.eye(8, dtype=torch.bool), as_tuple=True)
        liked = self.quality + self.slope * self.length
        self.weights = torch.sigmoid(liked[:, self.first] - liked[:, self.second]).flatten()

    def fit(self, logit: Logit) -> Tensor:
        """Return the policy that minimises the population loss."""
        n = self.length

        def loss(logits: Tensor) -> Tensor:
            h = logits.log_softmax(-1) - self.reference
            sides = [side[:, at].flatten() for side in (h, n) for at in (self.first, self.second)]
            return (self.weights * logistic_loss(logit(*sides))).sum() / self.weights.sum()

        return minimise(loss, self.reference).log_softmax(-1)

    def optimum(self, reward: Tensor) -> Tensor:
        """Return pi_ref e^{reward / beta} / Z."""
        return (self.reference + reward / self.beta).log_softmax(-1)

    def mean_length(self, policy: Tensor) -> float:
        """Return the expected length, mean over prompts."""
        return float((policy.exp() * self.length).sum(-1).mean())


def kl(target: Tensor, policy: Tensor) -> float:
    return float((target.exp() * (target - policy)).sum(-1).mean())


def test_v07_r_dpo_reaches_the_length_free_optimum_and_dpo_does_not() -> None:
    table = QualityAndLength()
    length_free = table.optimum(table.quality)
    biased = table.optimum(table.quality + table.slope * table.length)
    r_dpo = table.fit(partial(regularised, beta=table.beta, alpha=table.slope))
    dpo = table.fit(partial(plain, beta=table.beta))
    assert kl(length_free, r_dpo) <= 1e-5
    assert kl(biased, dpo) <= 1e-5
    assert kl(length_free, dpo) > 0.1
    assert table.mean_length(dpo) > table.mean_length(r_dpo) + 2


class GeometricLengths:
    """Lengths with continue probability .9 (mean 10); labels look at length only."""

    start = 0.9

    def __init__(self, slope: float) -> None:
        self.n = torch.arange(1, 301, dtype=torch.float64)  # beyond, .9^300 = 2e-14 is left
        share = self.log_p(torch.tensor(self.start).double().logit()).exp()
        wins = torch.sigmoid(slope * (self.n[:, None] - self.n))
        self.weights = (share[:, None] * share * wins).flatten()

    def log_p(self, raw: Tensor) -> Tensor:
        """Return log p of each length, for the continue probability sigmoid(raw)."""
        stop, go = torch.nn.functional.logsigmoid(-raw), torch.nn.functional.logsigmoid(raw)
        return (self.n - 1) * go + stop

    def continue_probability(self, logit: Logit) -> float:
        """Return the continue probability that minimises the population loss."""
        start = torch.tensor(self.start).double().logit()
        reference = self.log_p(start)
        size = len(self.n)

        def loss(raw: Tensor) -> Tensor:
            h = self.log_p(raw) - reference
            sides = [
                side
                for values in (h, self.n)
                for side in (values.repeat_interleave(size), values.repeat(size))
            ]
            return (self.weights * logistic_loss(logit(*sides))).sum() / self.weights.sum()

        return torch.sigmoid(minimise(loss, start)).item()


@pytest.mark.parametrize(("slope", "mean_length"), [(0.002, 12.22), (0.005, 18.57), (0.01, 187.05)])
def test_v07_dpo_multiplies_length_as_the_closed_form_says(
    slope: float, mean_length: float
) -> None:
    c = GeometricLengths(slope).continue_probability(partial(plain, beta=0.1))
    assert c == pytest.approx(0.9 * math.exp(slope / 0.1), abs=1e-5)  # c* = c0 e^{slope / beta}
    expected = 1 / (1 - c)
    assert expected == pytest.approx(mean_length, rel=0.05)


def test_v07_a_steep_slope_has_no_finite_optimum() -> None:
    # .02 / .1 > log(1 / .9): the answer never ends
    assert GeometricLengths(0.02).continue_probability(partial(plain, beta=0.1)) > 1 - 1e-4


@pytest.mark.parametrize("slope", [0.002, 0.01, 0.02])
def test_v07_r_dpo_gives_the_length_of_the_reference_back(slope: float) -> None:
    logit = partial(regularised, beta=0.1, alpha=slope)
    assert GeometricLengths(slope).continue_probability(logit) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize(
    ("slope", "mean_length"), [(0.002, 10.5), (0.005, 11.1), (0.01, 11.8), (0.02, 14.3)]
)
def test_v07_length_normalised_dpo_grows_little(slope: float, mean_length: float) -> None:
    c = GeometricLengths(slope).continue_probability(partial(normalised, beta=1.0))
    expected = 1 / (1 - c)
    assert expected == pytest.approx(mean_length, rel=0.05)


def token_ratios() -> tuple[Tensor, Tensor]:
    """One response of 12 tokens with drawn log ratios, and its mask."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(1, 12, generator=generator, dtype=torch.float64),
        torch.ones(1, 12, dtype=torch.bool),
    )


def test_v07_ld_dpo_with_alpha_one_is_dpo() -> None:
    h, mask = token_ratios()
    whole = ld_logps(logprobs=h, mask=mask, other_lengths=torch.tensor([5]), alpha=1.0)
    assert whole.item() == pytest.approx(h.sum().item())


def test_v07_sampo_keeps_its_share_of_the_log_ratio_on_average() -> None:
    h, mask = token_ratios()
    draws = 1000
    kept = sampo_keep(
        mask=mask.expand(draws, -1), other_lengths=torch.full((draws,), 5), seeds=range(draws)
    )
    sums = (h * kept).sum(-1)
    standard_error = sums.std().item() / math.sqrt(draws)
    assert abs(sums.mean().item() - 5 / 12 * h.sum().item()) <= 3 * standard_error
