import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it has no stubs here
import pytest
from crowdkit.aggregation import DawidSkene as CrowdKitDawidSkene

from preftune.comparisons.confusion import fit_confusion
from preftune.comparisons.raters import dawid_skene
from preftune.errors import DataError

LABELS = ("first", "tie", "second")
MATRICES = np.array(
    [
        [[0.85, 0.10, 0.05], [0.15, 0.70, 0.15], [0.05, 0.10, 0.85]],
        [[0.70, 0.20, 0.10], [0.20, 0.60, 0.20], [0.10, 0.20, 0.70]],
        [[0.90, 0.02, 0.08], [0.48, 0.04, 0.48], [0.08, 0.02, 0.90]],  # never says tie
        [[0.75, 0.15, 0.10], [0.45, 0.50, 0.05], [0.45, 0.15, 0.40]],  # leans to the first
        [[0.10, 0.15, 0.75], [0.20, 0.60, 0.20], [0.75, 0.15, 0.10]],  # an adversary
    ]
)


def simulated(seed: int, items: int = 2000) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Each item by all five raters; shares of first, tie and second are .4, .2 and .4."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, size=items, p=[0.4, 0.2, 0.4])
    votes = [
        (f"i{item}", f"r{rater}", LABELS[rng.choice(3, p=MATRICES[rater, label])])
        for item, label in enumerate(truth.tolist())
        for rater in range(5)
    ]
    return votes, [LABELS[label] for label in truth.tolist()]


def test_matrices_and_shares_are_recovered() -> None:
    votes, truth = simulated(0)
    fit = fit_confusion(votes, labels=LABELS)
    order = [fit.raters.index(f"r{k}") for k in range(5)]
    assert np.abs(fit.matrices[order] - MATRICES).max() < 0.08
    assert fit.prior == pytest.approx([0.4, 0.2, 0.4], abs=0.03)
    found = [LABELS[k] for k in fit.probability.argmax(1)]
    right = np.mean([a == b for a, b in zip(found, truth, strict=True)])
    assert right > 0.88  # every rater alone is below that on ties
    adversary = fit.accuracy[fit.raters.index("r4")]
    assert adversary == pytest.approx(0.8 * 0.10 + 0.2 * 0.60, abs=0.05)


def log_likelihood(
    votes: list[tuple[str, str, str]], prior: np.ndarray, matrices: dict[str, np.ndarray]
) -> float:
    """Sum over items of log Σ_t P(t) Π P(vote | t), vote by vote."""
    log: dict[str, np.ndarray] = {}
    for item, rater, label in votes:
        log.setdefault(item, np.log(prior).copy())
        log[item] += np.log(matrices[rater][:, LABELS.index(label)])
    return float(sum(np.logaddexp.reduce(terms) for terms in log.values()))


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # crowd-kit's use of pandas
def test_it_agrees_with_crowd_kit_and_is_at_least_as_likely() -> None:
    # crowd-kit leaves off after a few rounds, whatever its tolerance: near, not equal
    votes, _ = simulated(1)
    fit = fit_confusion(votes, labels=LABELS)
    frame = pd.DataFrame(votes, columns=["task", "worker", "label"])
    theirs = CrowdKitDawidSkene(n_iter=2000, tol=1e-9).fit(frame)
    table = theirs.probas_.loc[list(fit.items), list(LABELS)].to_numpy()
    assert np.mean(table.argmax(1) == fit.probability.argmax(1)) > 0.95
    names, raters = list(LABELS), list(map(str, fit.raters))
    matrices = {r: theirs.errors_.loc[r].loc[names, names].to_numpy().T for r in raters}
    assert (
        max(np.abs(matrices[r] - m).max() for r, m in zip(raters, fit.matrices, strict=True)) < 0.05
    )
    ours = log_likelihood(votes, fit.prior, dict(zip(raters, fit.matrices, strict=True)))
    assert ours > log_likelihood(votes, theirs.priors_.loc[names].to_numpy(), matrices)


def test_two_labels_are_the_binary_model() -> None:
    votes = [(item, rater, int(v == "first")) for item, rater, v in simulated(2, 300)[0]]
    binary, fit = dawid_skene(votes), fit_confusion(votes, labels=(0, 1))
    assert [binary.probability[item] for item in fit.items] == pytest.approx(
        fit.probability[:, 1].tolist()
    )
    assert [binary.accuracies[r] for r in fit.raters] == pytest.approx(fit.accuracy.tolist())


def test_labels_may_come_in_any_order_and_rows_add_to_1() -> None:
    votes, _ = simulated(3, 200)
    one, other = fit_confusion(votes, labels=LABELS), fit_confusion(votes, labels=LABELS[::-1])
    assert np.abs(one.probability - other.probability[:, ::-1]).max() < 1e-9
    assert one.matrices.sum(2) == pytest.approx(np.ones((5, 3)))
    assert one.probability.sum(1) == pytest.approx(np.ones(200))


@pytest.mark.parametrize(
    ("votes", "labels", "message"),
    [
        ([], ("a", "b"), "0 votes"),
        ([(1, "x", "a")], (), "1 votes for labels"),
        ([(1, "x", "c")], ("a", "b"), "votes .\"'c'\"."),
    ],
)
def test_votes_without_two_labels_are_refused(
    votes: list[tuple[int, str, str]], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit_confusion(votes, labels=labels)


def test_raters_who_only_contradict_each_other_are_refused() -> None:
    votes = [(i, r, LABELS[(i + turn) % 3]) for i in range(9) for turn, r in enumerate("ABC")]
    with pytest.raises(DataError, match="3 of 3 raters look no better than chance"):
        fit_confusion(votes)
