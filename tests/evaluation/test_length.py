import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from preftune.errors import DataError
from preftune.evaluation.length import length_controlled_win_rate, length_ratio
from preftune.evaluation.measures import Measure

DELTAS = (100, 200, -50, 300, 0, 150, -100, 250)
WINS = (1, 1, 0, 1, 1, 0, 0, 1)


def controlled(
    wins: tuple[float, ...], deltas: tuple[float, ...], prompts: list[int] | None = None
) -> Measure:
    found = length_controlled_win_rate(
        wins=wins, deltas=deltas, prompts=list(range(len(wins))) if prompts is None else prompts
    )
    assert found is not None
    return found


def test_length_controlled_win_rate_matches_the_table() -> None:
    found = controlled(WINS, DELTAS)
    assert found.value == pytest.approx(0.416790, abs=5e-7)
    assert found.note == "raw 0.625"


def test_length_controlled_win_rate_equals_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    deltas = rng.normal(20, 60, size=400)
    wins = (rng.uniform(size=400) < 1 / (1 + np.exp(-0.3 - 0.01 * deltas))).astype(float)
    x = np.tanh(deltas / deltas.std(ddof=1))[:, None]
    other = LogisticRegression(C=1 / 0.01, tol=1e-10, max_iter=1000).fit(x, wins)
    expected = 1 / (1 + np.exp(-other.intercept_[0]))
    assert controlled(tuple(wins), tuple(deltas)).value == pytest.approx(expected, abs=1e-5)


outcomes = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-300, 300)), min_size=2, max_size=30
)


@settings(max_examples=40)
@given(outcomes)
def test_swapping_the_systems_gives_the_rest_to_one(rows: list[tuple[float, int]]) -> None:
    wins, deltas = [w for w, _ in rows], [d for _, d in rows]
    prompts = list(range(len(rows)))
    one = length_controlled_win_rate(wins=wins, deltas=deltas, prompts=prompts)
    other = length_controlled_win_rate(
        wins=[1 - w for w in wins], deltas=[-d for d in deltas], prompts=prompts
    )
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.value + other.value == pytest.approx(1.0, abs=1e-6)


def test_a_judge_that_only_counts_length_gives_no_win_at_equal_length() -> None:
    deltas = tuple(range(-100, 201, 2))
    wins = tuple(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in deltas)
    found = controlled(wins, deltas)
    assert sum(wins) / len(wins) > 0.65
    assert found.value == pytest.approx(0.5, abs=0.02)


def test_equal_lengths_leave_the_raw_rate() -> None:
    assert controlled((1, 1, 0, 1), (0, 0, 0, 0)).value == pytest.approx(0.75)


def test_length_that_never_varies_cannot_be_told_apart() -> None:
    assert length_controlled_win_rate(wins=[1, 0], deltas=[50, 50], prompts=[0, 1]) is None


def test_winning_everything_keeps_an_honest_interval() -> None:
    found = controlled((1, 1, 1), (10, 20, 30))
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 3))


def test_copies_of_a_prompt_do_not_narrow_the_interval() -> None:
    once = controlled(WINS, DELTAS)
    # copies also shrink sd (n - 1) and the weight of the ridge a little, hence the tolerance
    copied = controlled(WINS * 4, DELTAS * 4, prompts=list(range(8)) * 4)
    naive = controlled(WINS * 4, DELTAS * 4)
    assert once.low is not None and copied.low is not None and naive.low is not None
    assert copied.low == pytest.approx(once.low, abs=0.02)
    assert naive.low > copied.low + 0.1


def test_length_ratio_is_the_ratio_of_means() -> None:
    found = length_ratio(candidate=[30, 10], baseline=[10, 10], prompts=["a", "b"], unit="tokens")
    assert found.value == 2.0
    assert (found.low, found.high) == (1.0, 3.0)
    assert found.note == "mean tokens per reply: 20.0 against 10.0"


def test_length_ratio_refuses_a_silent_baseline() -> None:
    with pytest.raises(DataError, match="every baseline reply is empty"):
        length_ratio(candidate=[1], baseline=[0], prompts=["a"], unit="tokens")
