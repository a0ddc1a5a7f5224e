"""V11: a Bradley–Terry fit is calibrated, scores times three are not, one slope mends them."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from preftune.losses.pairwise import bradley_terry_loss
from preftune.stats.calibration import expected_calibration_error, fit_slope

FEATURES, TRAIN, TEST, HELD_OUT, BINS = 5, 10_000, 20_000, 2_000, 15


def drawn(generator: np.random.Generator, truth: np.ndarray, pairs: int) -> torch.Tensor:
    """Return feature differences, the winner's less the loser's, of noisy comparisons `[N 5]`."""
    apart = generator.normal(size=(pairs, FEATURES))
    first_wins = generator.random(pairs) < expit(apart @ truth)
    return torch.from_numpy(np.where(first_wins[:, None], apart, -apart))


def fitted(apart: torch.Tensor) -> torch.Tensor:
    """Return the weights of the least Bradley–Terry loss, by Newton-like full batches."""
    weights = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = apart @ weights
        value = bradley_terry_loss(
            chosen_rewards=scores, rejected_rewards=torch.zeros_like(scores)
        ).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


@pytest.mark.parametrize("seed", range(5))
def test_bradley_terry_is_calibrated_and_a_slope_mends_what_is_not(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=FEATURES)
    weights = fitted(drawn(generator, truth, TRAIN))
    test, held_out = drawn(generator, truth, TEST), drawn(generator, truth, HELD_OUT)
    gaps = test @ weights
    calibrated = expected_calibration_error(gaps.tolist(), bins=BINS)
    too_sure = expected_calibration_error((3 * gaps).tolist(), bins=BINS)
    slope = fit_slope((3 * held_out @ weights).tolist())
    mended = expected_calibration_error((slope * 3 * gaps).tolist(), bins=BINS)
    assert calibrated <= 0.02
    assert too_sure >= max(0.05, 3 * calibrated)
    assert mended <= 0.02
    assert slope == pytest.approx(1 / 3, rel=0.2)
    right = float((gaps > 0).double().mean())
    bayes = float(((test @ torch.from_numpy(truth)) > 0).double().mean())
    assert right >= bayes - 0.01
