"""V12: five raters, one an adversary. Dawid–Skene beats the majority, and its soft labels teach.

600 binary items, three of five raters each, accuracies .9 .8 .75 .7 .2. The second half trains a
linear reward model through the library's loss on what the raters said of 600 pairs whose better
response is known, and asks 4,000 new pairs.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from preftune.comparisons.rater_model import fit_raters
from preftune.comparisons.raters import dawid_skene
from preftune.comparisons.vote_table import vote_table
from preftune.losses.pairwise import soft_bradley_terry_loss
from preftune.stats.bootstrap import mean_interval
from preftune.types import Judgment, Rater

ACCURACIES = (0.9, 0.8, 0.75, 0.7, 0.2)
ITEMS, FEATURES, NEW, SEEDS = 600, 10, 4000, 10
Vote = tuple[int, str, int]


def votes_on(truth: np.ndarray, rng: np.random.Generator) -> list[Vote]:
    """Three of the five raters on each item, each right as often as it should be."""
    votes = []
    for item, label in enumerate(truth.tolist()):
        for rater in rng.choice(5, size=3, replace=False).tolist():
            right = rng.random() < ACCURACIES[rater]
            votes.append((item, f"r{rater}", label if right else 1 - label))
    return votes


def majority(votes: list[Vote]) -> np.ndarray:
    ones = np.bincount([item for item, _, _ in votes], [vote for *_, vote in votes])
    return np.asarray(ones >= 2, dtype=float)


def posterior(votes: list[Vote]) -> np.ndarray:
    found = dawid_skene(votes).probability
    return np.array([found[item] for item in range(ITEMS)])


def share_of(votes: list[Vote]) -> np.ndarray:
    """Smoothed share of the votes, as pairs carry it where nothing is known of the raters."""
    ones = np.bincount([item for item, _, _ in votes], [vote for *_, vote in votes])
    return np.asarray((ones + 0.5) / 4)


def test_dawid_skene_beats_the_majority_and_finds_the_adversary() -> None:
    gains, adversary, errors = [], [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, ITEMS)
        votes = votes_on(truth, rng)
        fit = dawid_skene(votes)
        right = np.mean((posterior(votes) > 0.5) == truth) - np.mean(majority(votes) == truth)
        gains.append(float(right))
        adversary.append(fit.accuracies["r4"])
        errors.append(max(abs(fit.accuracies[f"r{j}"] - p) for j, p in enumerate(ACCURACIES)))
    assert np.mean(gains) >= 0.08
    assert mean_interval(gains, range(SEEDS)).low >= 0.08
    assert max(adversary) < 0.35
    assert max(errors) <= 0.12


def test_the_rater_model_finds_the_adversary_too() -> None:
    gains = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, ITEMS)
        votes = votes_on(truth, rng)
        said = [
            Judgment(
                id=f"{item} {rater}",
                comparison_id=f"{item}",
                kind="binary",
                choice=1 - vote,
                rater=Rater(id=rater, kind="simulated"),
            )
            for item, rater, vote in votes
        ]
        model = fit_raters(vote_table(said))
        by_item: list[list[tuple[str, int, bool]]] = [[] for _ in range(ITEMS)]
        for item, rater, vote in votes:
            by_item[item].append((rater, 2 * vote - 1, False))
        found = np.array([model.probability(heard) > 0.5 for heard in by_item])
        gains.append(float(np.mean(found == truth) - np.mean(majority(votes) == truth)))
        assert min(model.skill, key=lambda rater: model.skill[rater]) == "r4"
        assert model.accuracy("r4") < 0.35
    assert mean_interval(gains, range(SEEDS)).low >= 0.08


def trained(features: Tensor, probability: np.ndarray) -> Tensor:
    """Return the weights of a linear reward that minimise the soft loss, with a little decay."""
    weights = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    p = torch.tensor(probability)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        first, second = (features[:, side] @ weights for side in (0, 1))
        loss = soft_bradley_terry_loss(
            chosen_rewards=first, rejected_rewards=second, probability=p
        ).mean()
        value = loss + 1e-3 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()


def held_out(label: Callable[[list[Vote]], np.ndarray], seed: int) -> float:
    """Return the accuracy on new pairs of a reward model taught with these labels."""
    rng = np.random.default_rng(1000 + seed)
    direction = rng.standard_normal(FEATURES)
    pairs = rng.standard_normal((ITEMS, 2, FEATURES))
    truth = ((pairs[:, 0] - pairs[:, 1]) @ direction > 0).astype(int)
    weights = trained(torch.tensor(pairs), label(votes_on(truth, rng))).numpy()
    new = rng.standard_normal((NEW, FEATURES))
    return float(np.mean((new @ weights > 0) == (new @ direction > 0)))


@pytest.fixture(scope="module")
def accuracies() -> dict[str, np.ndarray]:
    labels = {"majority": majority, "share": share_of, "posterior": posterior}
    return {
        name: np.array([held_out(label, seed) for seed in range(SEEDS)])
        for name, label in labels.items()
    }


def test_soft_labels_of_dawid_skene_teach_a_better_reward_model(
    accuracies: dict[str, np.ndarray],
) -> None:
    for other in ("majority", "share"):
        gain = accuracies["posterior"] - accuracies[other]
        interval = mean_interval(gain.tolist(), range(SEEDS))
        assert interval.low > 0.01, f"{other}: {gain.mean():.3f}, {interval}"
    assert accuracies["posterior"].mean() > 0.94
