import itertools
import time

import evalica
import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it has no stubs here
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from preftune.errors import DataError
from preftune.stats.agreement import (
    Level,
    alpha_interval,
    alpha_of_counts,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)

NOTE_2011 = {  # Krippendorff's own example: four raters, twelve units, dots for missing votes
    "A": "123321412...",
    "B": "1233224125.3",
    "C": ".3332342251.",
    "D": "12332441251.",
}
NOTE_VOTES = [
    (unit, rater, int(value))
    for rater, row in NOTE_2011.items()
    for unit, value in enumerate(row)
    if value != "."
]
FLEISS_1971 = """0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/
6 5 2 1 0/0 2 2 3 7"""
FLEISS_COUNTS = [[int(n) for n in row.split()] for row in FLEISS_1971.split("/")]


def two_raters(table: list[list[int]]) -> tuple[list[int], list[int]]:
    cells = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return [i for i, _ in cells], [j for _, j in cells]


def test_cohen_kappa_matches_hand_calculation() -> None:
    # po = 35/50 = .7, pe = .5 * .6 + .5 * .4 = .5, so (.7 - .5) / .5
    assert cohen_kappa(*two_raters([[20, 5], [10, 15]])) == pytest.approx(0.4)


def test_cohen_kappa_weighs_distances() -> None:
    a, b = two_raters([[10, 3, 1], [2, 8, 4], [0, 2, 10]])
    assert cohen_kappa(a, b) == pytest.approx(0.551402, abs=5e-7)
    assert cohen_kappa(a, b, weights="linear") == pytest.approx(0.634831, abs=5e-7)
    assert cohen_kappa(a, b, weights="quadratic") == pytest.approx(0.718574, abs=5e-7)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
def test_cohen_kappa_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if len({*a, *b}) == 1:
        with pytest.raises(DataError, match="only ever said"):
            cohen_kappa(a, b)
        return
    assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    linear = cohen_kappa_score(a, b, weights="linear")
    assert cohen_kappa(a, b, weights="linear") == pytest.approx(linear)
    quadratic = cohen_kappa_score(a, b, weights="quadratic")
    assert cohen_kappa(a, b, weights="quadratic") == pytest.approx(quadratic)


def test_cohen_kappa_refuses_lists_of_unequal_length() -> None:
    with pytest.raises(DataError, match="2 and 1 labels"):
        cohen_kappa([1, 2], [1])


def test_fleiss_kappa_of_the_published_example() -> None:
    assert fleiss_kappa(FLEISS_COUNTS) == pytest.approx(0.209931, abs=5e-7)
    assert fleiss_kappa(FLEISS_COUNTS) == pytest.approx(inter_rater.fleiss_kappa(FLEISS_COUNTS))


@pytest.mark.parametrize("counts", [[[2, 0], [1, 0]], [[1, 0], [0, 1]], [], [[3, 0], [3, 0]]])
def test_fleiss_kappa_refuses_what_it_cannot_use(counts: list[list[int]]) -> None:
    with pytest.raises(DataError):
        fleiss_kappa(counts)


@pytest.mark.parametrize(
    ("level", "alpha"),
    [("nominal", 0.743421), ("ordinal", 0.815388), ("interval", 0.849107), ("ratio", 0.797403)],
)
def test_alpha_of_the_published_example(level: Level, alpha: float) -> None:
    assert krippendorff_alpha(NOTE_VOTES, level=level) == pytest.approx(alpha, abs=5e-7)


def alpha_by_definition(votes: list[tuple[int, int, int]], level: str) -> float:
    """Average disagreement within units over that of all votes, pair by pair."""
    units: dict[int, list[int]] = {}
    for unit, _, value in votes:
        units.setdefault(unit, []).append(value)
    kept = [values for values in units.values() if len(values) > 1]
    every = [value for values in kept for value in values]

    def distance(a: int, b: int) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return float((a - b) ** 2)
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in every) - (every.count(a) + every.count(b)) / 2
        return 0.0 if a == b else between**2

    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(values, 2)) / (len(values) - 1)
        for values in kept
    )
    expected = sum(distance(a, b) for a, b in itertools.permutations(every, 2)) / (len(every) - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@given(
    st.dictionaries(st.tuples(st.integers(0, 7), st.integers(0, 4)), st.integers(1, 5), min_size=2)
)
def test_alpha_equals_its_definition(level: Level, votes: dict[tuple[int, int], int]) -> None:
    triples = [(unit, rater, value) for (unit, rater), value in votes.items()]
    try:
        alpha = krippendorff_alpha(triples, level=level)
    except DataError:
        units = [unit for unit, _ in votes]
        assert len({v for (u, _), v in votes.items() if units.count(u) > 1}) <= 1
        return
    assert alpha == pytest.approx(alpha_by_definition(triples, level))


def test_alpha_takes_the_last_vote_of_a_rater_on_a_unit() -> None:
    repeated = [(0, "A", 3), *[(u, r, v) for u, r, v in NOTE_VOTES]]
    assert krippendorff_alpha(repeated) == krippendorff_alpha(NOTE_VOTES)


def test_alpha_of_names_needs_no_order() -> None:
    named = [(unit, rater, f"level {9 - value}") for unit, rater, value in NOTE_VOTES]
    assert krippendorff_alpha(named) == pytest.approx(krippendorff_alpha(NOTE_VOTES))


@pytest.mark.parametrize(
    ("votes", "level", "message"),
    [
        ([(1, "A", 1), (2, "B", 1)], "nominal", "no unit has two votes"),
        ([(1, "A", 1), (1, "B", 1)], "nominal", "all votes that can be compared are equal"),
        ([(1, "A", "left"), (1, "B", "right")], "interval", "finite numbers"),
        ([(1, "A", -1), (1, "B", 2)], "ratio", "from 0 up"),
        ([(1, "A", float("nan")), (1, "B", 2)], "ordinal", "finite numbers"),
    ],
)
def test_alpha_refuses_votes_it_cannot_use(
    votes: list[tuple[object, object, object]], level: Level, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        krippendorff_alpha(votes, level=level)


def test_alpha_of_61k_sparse_votes_needs_no_loop_over_pairs() -> None:
    rng = np.random.default_rng(0)
    raters = rng.integers(0, 3800, size=(12_200, 5)).tolist()
    values = rng.integers(0, 3, size=(12_200, 5)).tolist()
    votes = [
        (f"unit {unit}", f"rater {rater}", value)
        for unit in range(12_200)
        for rater, value in zip(raters[unit], values[unit], strict=True)
    ]
    start = time.process_time()
    alpha = krippendorff_alpha(votes, level="ordinal")
    assert time.process_time() - start < 30  # 0.2 s alone; pairs of raters one by one: minutes
    assert abs(alpha) < 0.02  # random votes agree by chance only


def test_alpha_interval_holds_the_estimate_and_narrows_with_more_units() -> None:
    low, high = alpha_interval(NOTE_VOTES, level="ordinal", rounds=400)
    more = [((copy, u), r, v) for copy in range(9) for u, r, v in NOTE_VOTES]
    more_low, more_high = alpha_interval(more, level="ordinal", rounds=400)
    assert low < 0.815388 < high
    assert (more_high - more_low) < 0.6 * (high - low)


def test_alpha_interval_draws_the_units_of_a_prompt_together() -> None:
    rng = np.random.default_rng(0)
    lean = rng.integers(0, 2, 40)  # what the raters of a prompt agree on
    votes = [
        ((prompt, unit), rater, int(rng.random() < 0.1) ^ int(lean[prompt]))
        for prompt in range(40)
        for unit in range(6)
        for rater in "AB"
    ]
    hard = [((prompt, unit), r, v if prompt % 2 else int(rng.integers(2)))
            for (prompt, unit), r, v in votes]  # fmt: skip
    prompt_of = {unit: unit[0] for unit, _, _ in votes}
    alone = alpha_interval(hard, rounds=400)
    together = alpha_interval(hard, cluster_of=prompt_of, rounds=400)
    assert together[1] - together[0] > 1.2 * (alone[1] - alone[0])
    with pytest.raises(DataError, match="has no cluster"):
        alpha_interval(hard, cluster_of={}, rounds=10)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_equals_evalica_on_random_sparse_votes(level: Level) -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(1, 6, size=(12, 60)).astype(float)
    table[rng.random(table.shape) < 0.5] = np.nan
    votes = [
        (int(unit), int(rater), int(table[rater, unit]))
        for rater, unit in zip(*np.nonzero(~np.isnan(table)), strict=True)
    ]
    theirs = evalica.alpha(pd.DataFrame(table), distance=level).alpha
    assert krippendorff_alpha(votes, level=level) == pytest.approx(theirs)


def counted(votes: list[tuple[int, str, int]]) -> tuple[np.ndarray, list[int]]:
    """How often each value was said on each unit, and the values."""
    values = sorted({value for _, _, value in votes})
    table = np.zeros((max(unit for unit, _, _ in votes) + 1, len(values)), dtype=int)
    for unit, _, value in votes:
        table[unit, values.index(value)] += 1
    return table, values


@pytest.mark.parametrize(
    ("level", "alpha"),
    [("nominal", 0.743421), ("ordinal", 0.815388), ("interval", 0.849107), ("ratio", 0.797403)],
)
def test_alpha_of_counts_of_the_published_example(level: Level, alpha: float) -> None:
    found = alpha_of_counts(*counted(NOTE_VOTES), level=level)
    assert found.alpha == pytest.approx(alpha, abs=5e-7)
    assert (found.units, found.votes) == (11, 40)


def test_alpha_of_counts_has_the_interval_of_the_votes() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 400)
    votes = [
        (unit, rater, int(truth[unit] if draw.random() < 0.7 else draw.integers(0, 3)))
        for unit in range(400)
        for rater in "abc"
    ]
    found = alpha_of_counts(*counted(votes))
    assert found.alpha == pytest.approx(krippendorff_alpha(votes))
    assert (found.low, found.high) == pytest.approx(alpha_interval(votes), abs=0.01)


def test_alpha_of_counts_says_nothing_where_nothing_can_be_said() -> None:
    for counts in (np.zeros((0, 2)), [[1, 0], [0, 1]], [[3, 0], [2, 0]]):
        found = alpha_of_counts(counts, [0, 1])
        assert (found.alpha, found.low, found.high) == (None, None, None)
