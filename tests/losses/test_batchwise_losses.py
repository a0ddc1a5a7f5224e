import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.batchwise import (
    MarginAverage,
    aot_logit,
    aot_unpaired_logit,
    beta_dpo_beta,
    beta_dpo_keep,
)
from preftune.losses.direct import logistic_loss, smoothed_loss

gaps = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8)


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CHOSEN, REJECTED = number(-10.0, -12.0, -8.0), number(-11.0, -9.0, -14.0)
REFERENCE_CHOSEN, REFERENCE_REJECTED = number(-11.0, -11.0, -9.0), number(-12.5, -10.0, -9.0)


def batch_logit() -> Tensor:
    return aot_logit(
        policy_gaps=CHOSEN - REJECTED,
        reference_gaps=REFERENCE_CHOSEN - REFERENCE_REJECTED,
        beta=0.1,
    )


def test_aot_meets_published_vectors() -> None:
    logit = batch_logit()
    assert (logit / 0.1).tolist() == pytest.approx([-2.0, 1.0, 4.5])
    assert logistic_loss(logit).mean().item() == pytest.approx(0.645261, abs=1e-6)
    smoothed = smoothed_loss(logit, flip_rate=0.1)
    assert smoothed.mean().item() == pytest.approx(0.656928, abs=1e-6)


def test_unpaired_aot_meets_published_vectors() -> None:
    logit = aot_unpaired_logit(
        chosen_logratio=CHOSEN - REFERENCE_CHOSEN,
        rejected_logratio=REJECTED - REFERENCE_REJECTED,
        beta=0.1,
    )
    assert (logit / 0.1).tolist() == pytest.approx([4.0, 0.0, -0.5])
    assert logistic_loss(logit).mean().item() == pytest.approx(0.641541, abs=1e-6)


def test_aot_starts_at_log_2() -> None:
    reference = REFERENCE_CHOSEN - REFERENCE_REJECTED
    logit = aot_logit(policy_gaps=reference, reference_gaps=reference, beta=0.1)
    assert logistic_loss(logit).tolist() == pytest.approx([math.log(2)] * 3)


def test_aot_gradient_goes_to_the_pair_of_each_quantile() -> None:
    # sorted policy gaps: pair 1 (-3), pair 0 (1), pair 2 (6), with logits -0.2, 0.1, 0.45
    policy = (CHOSEN - REJECTED).requires_grad_()
    reference = REFERENCE_CHOSEN - REFERENCE_REJECTED
    loss = logistic_loss(aot_logit(policy_gaps=policy, reference_gaps=reference, beta=0.1))
    (gradient,) = torch.autograd.grad(loss.sum(), [policy])
    by_hand = [-0.1 / (1 + math.exp(z)) for z in (0.1, -0.2, 0.45)]
    assert gradient.tolist() == pytest.approx(by_hand)


@given(gaps, gaps)
def test_aot_ignores_the_order_of_either_side(left: list[float], right: list[float]) -> None:
    size = min(len(left), len(right))
    policy, reference = number(*left[:size]), number(*right[:size])
    plain = aot_logit(policy_gaps=policy, reference_gaps=reference, beta=0.5)
    moved = aot_logit(policy_gaps=policy.flip(0), reference_gaps=reference.roll(1), beta=0.5)
    unpaired = aot_unpaired_logit(
        chosen_logratio=policy.roll(1), rejected_logratio=reference, beta=0.5
    )
    assert plain.equal(moved)
    assert plain.equal(unpaired)
    assert logistic_loss(plain).isfinite().all()


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_aot_refuses_a_beta_that_teaches_nothing(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        aot_logit(policy_gaps=CHOSEN, reference_gaps=REJECTED, beta=beta)
    with pytest.raises(ValueError, match="beta"):
        aot_unpaired_logit(chosen_logratio=CHOSEN, rejected_logratio=REJECTED, beta=beta)


def test_one_pair_has_no_distribution() -> None:
    one = number(1.0)
    with pytest.raises(ValueError, match="at least 2"):
        aot_logit(policy_gaps=one, reference_gaps=one, beta=0.1)
    with pytest.raises(ValueError, match="at least 2"):
        aot_unpaired_logit(chosen_logratio=one, rejected_logratio=one, beta=0.1)
    with pytest.raises(ValueError, match="at least 2"):
        MarginAverage().updated(one, decay=0.9)


def test_beta_dpo_meets_published_vectors() -> None:
    margins = number(3.0, -1.0, 1.5)
    beta = beta_dpo_beta(margins=margins, beta=0.1, scale=0.6, centre=1.0)
    assert beta.item() == pytest.approx(0.11)
    assert logistic_loss(beta * margins).mean().item() == pytest.approx(0.635135, abs=1e-6)


def test_beta_dpo_beta_has_a_floor_and_no_gradient() -> None:
    margins = number(-1e4, -1e4).requires_grad_()
    beta = beta_dpo_beta(margins=margins, beta=0.1, scale=0.6, centre=0.0)
    assert beta.item() == pytest.approx(1e-3)
    assert not beta.requires_grad


@given(gaps, st.floats(0.01, 5.0))
def test_beta_dpo_with_scale_zero_keeps_beta(margins: list[float], beta: float) -> None:
    got = beta_dpo_beta(margins=number(*margins), beta=beta, scale=0.0, centre=3.0)
    assert got.item() == pytest.approx(beta)


def test_margin_average_matches_hand_calculation() -> None:
    # mean 1, standard deviation sqrt((1 + 1) / 1) = sqrt 2
    first = MarginAverage().updated(number(0.0, 2.0), decay=0.9)
    assert first.centre == pytest.approx(0.1)
    assert first.spread == pytest.approx(0.1 * math.sqrt(2))
    second = first.updated(number(5.0, 5.0), decay=0.9)
    assert second.centre == pytest.approx(0.09 + 0.5)
    assert second.spread == pytest.approx(0.09 * math.sqrt(2))


def test_keep_takes_the_share_and_repeats_with_its_seed() -> None:
    margins = torch.linspace(-1, 1, 10, dtype=torch.float64)
    average = MarginAverage(centre=0.0, spread=1.0)
    keeps = [
        beta_dpo_keep(margins=margins, average=average, keep_frac=0.7, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert [int(keep.sum()) for keep in keeps] == [7, 7, 7]
    assert keeps[0].equal(keeps[1])
    assert not keeps[0].equal(keeps[2])
    many = beta_dpo_keep(margins=torch.zeros(100), average=average, keep_frac=0.29, seed=0)
    assert int(many.sum()) == 29  # though 0.29 * 100 is 28.999… in binary
    whole = beta_dpo_keep(margins=margins, average=average, keep_frac=1.0, seed=0)
    assert whole.all()


def test_keep_draws_with_the_weights_of_a_normal_curve() -> None:
    # one of two: weights 1 and exp(-1/2), so the typical pair is kept with sigmoid(1/2) = .6225
    average = MarginAverage(centre=2.0, spread=3.0)
    kept = [
        beta_dpo_keep(margins=number(2.0, 5.0), average=average, keep_frac=0.5, seed=seed)[0].item()
        for seed in range(4000)
    ]
    standard_error = math.sqrt(0.6225 * 0.3775 / 4000)
    assert sum(kept) / 4000 == pytest.approx(0.622459, abs=4 * standard_error)


def test_keep_drops_far_outliers() -> None:
    spread = MarginAverage(centre=0.0, spread=1.0)
    far = number(1e4, 0.0, 0.1, -0.1, -1e4)
    keep = beta_dpo_keep(margins=far, average=spread, keep_frac=0.6, seed=0)
    assert keep.tolist() == [False, True, True, True, False]


def test_keep_at_the_start_of_a_run_prefers_no_pair() -> None:
    # all margins and the spread are 0: each of four pairs is kept in half of the draws
    draws = [
        beta_dpo_keep(margins=torch.zeros(4), average=MarginAverage(), keep_frac=0.5, seed=seed)
        for seed in range(1000)
    ]
    shares = torch.stack(draws).double().mean(0)
    assert shares.tolist() == pytest.approx([0.5] * 4, abs=4 * math.sqrt(0.25 / 1000))


@pytest.mark.parametrize("keep_frac", [0.0, 0.2, -0.5, 1.5, math.nan])
def test_keep_of_nothing_or_more_than_all_is_refused(keep_frac: float) -> None:
    with pytest.raises(ValueError, match="keep_frac"):
        beta_dpo_keep(
            margins=number(1.0, 2.0), average=MarginAverage(), keep_frac=keep_frac, seed=0
        )


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        MarginAverage().updated(number(1.0, 2.0), decay=decay)


@pytest.mark.parametrize(
    ("beta", "scale", "name"),
    [(0.0, 0.6, "beta"), (0.1, -0.1, "scale"), (0.1, math.nan, "scale")],
)
def test_beta_dpo_refuses_settings_outside_their_range(
    beta: float, scale: float, name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        beta_dpo_beta(margins=number(1.0, 2.0), beta=beta, scale=scale, centre=0.0)
