"""Tests that stay valid however often one looks."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln
from scipy.stats import binom


def e_value(wins: ArrayLike, losses: ArrayLike) -> np.ndarray:
    """Return the evidence against "the candidate wins at most half of the decided comparisons".

    `2^(n+1) · B(w+1, l+1) · P(Bin(n+1, ½) <= w)`, n = w + l: the likelihood ratio against ½,
    averaged over a win rate uniform in ½..1. Rejecting once it reaches 1 / alpha keeps the false
    alarms below alpha, also when one looks after every label and stops at will (Ville). Ties are
    left out. 7 wins in a row give 31.875 and are the fewest that pass 20.

    Args:
        wins: decided comparisons won so far; a number or an array.
        losses: decided comparisons lost so far; the same shape. Labels must be independent: one
            comparison per prompt.

    Returns:
        Array of the inputs' shape, > 0.

    Source: Ville 1939; the uniform mixture integrated in closed form.
    """
    w, n = np.asarray(wins), np.asarray(wins) + np.asarray(losses)
    log_value = (n + 1) * math.log(2) + betaln(w + 1, n - w + 1) + binom.logcdf(w, n + 1, 0.5)
    return np.asarray(np.exp(log_value))
