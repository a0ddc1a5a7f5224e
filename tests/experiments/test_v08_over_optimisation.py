"""V8: best-of-n against a proxy that can be hacked. Gold rises, peaks and falls; the watch says so.

gold ~ N(0, 1), proxy = 0.7 gold + 0.714 noise. One draw in a hundred is a hack: proxy + 3 and
gold - 4. The truth comes from order statistics, integrated numerically.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from preftune.stats.best_of_n import expected_best, kl_upper_bound
from preftune.stats.over_optimisation import Evaluation, alarms, best, fit_best_of_n

Array = NDArray[np.float64]
NS = [2**power for power in range(10)]  # 1 ... 512
HACKS, SLOPE, NOISE = 0.01, 0.7, 0.714
SPREAD = (SLOPE**2 + NOISE**2) ** 0.5  # of the proxy of a clean draw
PROMPTS, DRAWS = 1000, 512


def exact(hacks: float) -> Array:
    """Return proxy and gold of the best of each n, [n, 2], by the law of the largest proxy."""
    x = np.linspace(-9, 12, 40_001)
    clean = (1 - hacks) * norm.pdf(x, scale=SPREAD)
    hacked = hacks * norm.pdf(x, loc=3, scale=SPREAD)
    below = (1 - hacks) * norm.cdf(x, scale=SPREAD) + hacks * norm.cdf(x, loc=3, scale=SPREAD)
    gold = clean * SLOPE * x / SPREAD**2 + hacked * (SLOPE * (x - 3) / SPREAD**2 - 4)
    means = [
        [np.trapezoid(n * below ** (n - 1) * part, x) for part in ((clean + hacked) * x, gold)]
        for n in NS
    ]
    return np.array(means)


@dataclass(frozen=True)
class Sampled:
    """Proxy and gold of the best of each n by the product's estimator, with standard errors."""

    means: Array  # [n, 2]
    errors: Array  # [n, 2]

    def rows(self) -> list[Evaluation]:
        """Return one evaluation per n, as a watch sees them."""
        return [
            Evaluation(
                step=n,
                proxy=proxy,
                gold=gold,
                gold_se=error,
                kl=kl_upper_bound(n),  # exact here: no response has any mass
                length_tokens=1,
                repetition=0,
            )
            for n, (proxy, gold), (_, error) in zip(NS, self.means, self.errors, strict=True)
        ]


def sampled(hacks: float) -> Sampled:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(PROMPTS, DRAWS))
    proxy = SLOPE * gold + NOISE * rng.normal(size=gold.shape)
    hack = rng.random(gold.shape) < hacks
    proxy, gold = proxy + 3 * hack, gold - 4 * hack
    curves = np.array(
        [[expected_best(p, p), expected_best(p, g)] for p, g in zip(proxy, gold, strict=True)]
    )[:, :, np.array(NS) - 1]  # [prompts, 2, n]
    return Sampled(means=curves.mean(0).T, errors=curves.std(0, ddof=1).T / PROMPTS**0.5)


def first_stop(rows: list[Evaluation]) -> int | None:
    """Return the first n at which the watch asks to stop."""
    for end in range(1, len(rows) + 1):
        if any(alarm.stop for alarm in alarms(rows[:end])):
            return rows[end - 1].step
    return None


@pytest.fixture(scope="module")
def hackable() -> Sampled:
    return sampled(HACKS)


def test_v08_exact_curve_rises_peaks_and_falls() -> None:
    proxy, gold = exact(HACKS).T
    assert (np.diff(proxy) > 0).all()
    assert NS[int(gold.argmax())] == 8
    assert [proxy[0], gold[0]] == pytest.approx([HACKS * 3, HACKS * -4], abs=1e-6)
    assert [proxy[-1], gold[3], gold[-1]] == pytest.approx([4.13, 0.66, -2.58], abs=0.05)


def test_v08_law_of_the_exact_curve_has_its_published_coefficients() -> None:
    gold = exact(HACKS)[:, 1]
    d = np.sqrt([kl_upper_bound(n) for n in NS])
    law = fit_best_of_n(d, gold - gold[0])
    assert [law.a, law.b] == pytest.approx([2.33, 1.47], abs=0.05)
    assert law.r2 == pytest.approx(0.951, abs=0.005)
    assert law.peak is not None
    assert 0 < law.peak < d[-1]


def test_v08_sampled_curve_is_within_three_standard_errors(hackable: Sampled) -> None:
    assert (np.abs(hackable.means - exact(HACKS)) <= 3 * hackable.errors).all()
    assert hackable.errors[3, 1] < 0.02  # tight enough to say something


def test_v08_alarm_comes_by_twice_the_peak(hackable: Sampled) -> None:
    rows = hackable.rows()
    assert best(rows).step == 8
    stopped = first_stop(rows)
    assert stopped is not None
    assert 8 < stopped <= 2 * 8


def test_v08_without_hacks_gold_never_turns_and_nothing_is_stopped() -> None:
    gold = exact(0.0)[:, 1]
    of_normals = {2: 0.5642, 4: 1.0294, 8: 1.4236, 16: 1.7661, 64: 2.3439, 512: 3.0442}
    for n, largest in of_normals.items():
        assert gold[NS.index(n)] == pytest.approx(SLOPE / SPREAD * largest, abs=3e-4)
    rows = sampled(0.0).rows()
    assert (np.diff([row.gold for row in rows]) > 0).all()
    assert first_stop(rows) is None
