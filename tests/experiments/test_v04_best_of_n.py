"""V4: best-of-n. The exact law keeps to both bounds, the estimator is unbiased, the report says so.

Responses have Dirichlet(1) probabilities. With 5,000 of them the bounds are met; with 4 the true
KL is far below ln n - (n - 1) / n.
"""

import numpy as np
import pytest

from preftune.inference.best_of_n import Best, Draw
from preftune.inference.best_of_n_report import make_report, report_lines
from preftune.stats.best_of_n import (
    best_of_n_kl,
    best_of_n_law,
    best_of_n_win_rate,
    expected_best,
    expected_win,
    kl_upper_bound,
    win_rate_upper_bound,
)
from preftune.types import Response, assistant

NS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 512)
DRAWS, REPEATS = 32, 4000


def probabilities(responses: int) -> np.ndarray:
    return np.random.default_rng(responses).dirichlet(np.ones(responses))


@pytest.mark.parametrize("responses", [4, 50, 5000])
@pytest.mark.parametrize("n", NS)
def test_exact_kl_and_win_rate_keep_to_their_bounds(responses: int, n: int) -> None:
    p, scores = probabilities(responses), np.arange(responses)
    kl, win = best_of_n_kl(p, scores, n=n), best_of_n_win_rate(p, scores, n=n)
    assert kl <= kl_upper_bound(n) + 1e-9
    assert win <= win_rate_upper_bound(n) + 1e-12
    if responses == 5000 and n <= 64:
        assert win == pytest.approx(win_rate_upper_bound(n), abs=5e-4)
        assert kl == pytest.approx(kl_upper_bound(n), rel=0.01)
    if responses == 4 and n == 64:
        assert kl < 0.9 * kl_upper_bound(n)


@pytest.mark.parametrize("ties", [False, True])
def test_the_estimator_has_no_bias(ties: bool) -> None:
    p = probabilities(50)
    scores = np.arange(50) // (10 if ties else 1)
    gold = np.sin(np.arange(50))  # what the choice is worth need not follow the score
    rng = np.random.default_rng(0)
    drawn = rng.choice(50, size=(REPEATS, DRAWS), p=p)
    best = np.array([expected_best(scores[row], gold[row]) for row in drawn])
    wins = np.array([expected_win(scores[row], scores[row]) for row in drawn])
    for n in (2, 8, 32):
        truth = best_of_n_law(p, scores, n=n) @ gold
        z = (best[:, n - 1].mean() - truth) / (best[:, n - 1].std(ddof=1) / REPEATS**0.5)
        assert abs(z) <= 3.5, (n, z)
    for n in (2, 8, 31):
        rate = best_of_n_win_rate(p, scores, n=n)
        z = (wins[:, n - 1].mean() - rate) / (wins[:, n - 1].std(ddof=1) / REPEATS**0.5)
        assert abs(z) <= 3.5, (n, z)


def test_taking_the_best_of_drawing_again_from_the_batch_would_be_biased() -> None:
    scores = np.array([-1.0, 0.0, 0.5, 2.0])
    with_replacement = best_of_n_law(np.full(4, 0.25), scores, n=2) @ scores
    assert with_replacement == pytest.approx(0.96875)
    assert expected_best(scores, scores)[1] == pytest.approx(7 / 6)


def test_report_calls_the_bound_an_upper_bound() -> None:
    rng = np.random.default_rng(0)
    bests = [
        Best(
            prompt_id=f"p{i}",
            draws=tuple(
                Draw(
                    response=Response(
                        id=f"r{i}-{j}", prompt_id=f"p{i}", messages=(assistant("a"),)
                    ),
                    score=float(rng.normal()),
                )
                for j in range(8)
            ),
        )
        for i in range(50)
    ]
    report = make_report(bests, n=8, names=("model", "reward", ""))
    lines = list(report_lines(report))
    header = next(line for line in lines if "KL" in line)
    assert "KL upper bound" in header
    assert [row.kl_upper_bound for row in report.rows] == [kl_upper_bound(k) for k in range(1, 9)]
    # normal scores: 1.4236 is the mean of the best of 8
    last = report.rows[-1].score
    assert last.low is not None
    assert last.high is not None
    assert last.low < 1.4236 < last.high
