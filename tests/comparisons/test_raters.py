import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.comparisons.raters import (
    agreement_ceiling,
    dawid_skene,
    flip_rate,
    label_log_odds,
    label_probability,
)
from preftune.errors import DataError

EIGHT_ITEMS = ("110", "110", "110", "001", "001", "001", "100", "011")
EIGHT_VOTES = [(i, f"r{j}", int(v)) for i, row in enumerate(EIGHT_ITEMS) for j, v in enumerate(row)]


def test_flip_rate_matches_hand_calculation() -> None:
    assert flip_rate(0.68) == pytest.approx(0.2)  # .2² + .8² = .68


@given(st.floats(0, 0.5))
def test_flip_rate_undoes_the_agreement_of_two_flipped_votes(flipped: float) -> None:
    agreement = flipped**2 + (1 - flipped) ** 2
    assert flip_rate(max(0.5, agreement)) == pytest.approx(flipped, abs=1e-7)


def test_agreement_below_a_half_has_no_flip_rate() -> None:
    with pytest.raises(DataError, match=r"agree in 0\.400"):
        flip_rate(0.4)


def test_ceiling_of_agreement_matches_hand_calculation() -> None:
    assert agreement_ceiling(0.7) == pytest.approx(0.556574, abs=5e-7)
    assert agreement_ceiling(0) == 0.5


def test_label_probability_matches_hand_calculation() -> None:
    # ln 9 + ln 4 - ln(7/3) = 2.736221
    assert label_log_odds([0.9, 0.8], [0.7]) == pytest.approx(2.736221, abs=5e-7)
    assert label_probability([0.9, 0.8], [0.7]) == pytest.approx(0.939130, abs=5e-7)


@given(st.lists(st.floats(0.01, 0.99), max_size=5), st.lists(st.floats(0.01, 0.99), max_size=5))
def test_label_and_its_opposite_add_to_1(for_it: list[float], against: list[float]) -> None:
    both = label_probability(for_it, against) + label_probability(against, for_it)
    assert both == pytest.approx(1)


def test_a_rater_who_is_never_wrong_is_refused() -> None:
    with pytest.raises(DataError, match="accuracy 1"):
        label_probability([1.0])


def test_dawid_skene_of_eight_items() -> None:
    fit = dawid_skene(EIGHT_VOTES)
    expected = [0.969994] * 3 + [0.030006] * 3 + [0.886356, 0.113644]
    assert [fit.probability[i] for i in range(8)] == pytest.approx(expected, abs=5e-7)
    rates = [0.799390, 0.670604, 0.200610]
    assert [fit.sensitivity[f"r{j}"] for j in range(3)] == pytest.approx(rates, abs=5e-7)
    assert [fit.specificity[f"r{j}"] for j in range(3)] == pytest.approx(rates, abs=5e-7)
    assert [fit.accuracies[f"r{j}"] for j in range(3)] == pytest.approx(rates, abs=5e-7)


def test_dawid_skene_refuses_raters_who_only_contradict_each_other() -> None:
    votes = [
        (item, rater, (item + turn) % 2) for item in range(6) for turn, rater in enumerate("AB")
    ]
    with pytest.raises(DataError, match="2 of 2 raters look no better than chance"):
        dawid_skene(votes)


@pytest.mark.parametrize("votes", [[], [(1, "A", 2)]])
def test_dawid_skene_refuses_what_is_not_a_binary_vote(votes: list[tuple[int, str, int]]) -> None:
    with pytest.raises(DataError, match="0 or 1"):
        dawid_skene(votes)


def test_dawid_skene_takes_the_last_vote_of_a_rater_on_an_item() -> None:
    repeated = [(0, "r0", 0), *EIGHT_VOTES]
    assert dawid_skene(repeated).probability == dawid_skene(EIGHT_VOTES).probability


def test_dawid_skene_says_when_it_has_not_settled() -> None:
    with pytest.raises(DataError, match="not settled after 2 rounds"):
        dawid_skene(EIGHT_VOTES, max_rounds=2)


def test_first_step_from_vote_shares_matches_published_digits() -> None:
    # One round by hand through the formulas, to fix the smoothing and the prior.
    shares = [sum(map(int, row)) / 3 for row in EIGHT_ITEMS]
    hit = [
        (sum(q * int(r[j]) for q, r in zip(shares, EIGHT_ITEMS, strict=True)) + 1)
        / (sum(shares) + 2)
        for j in range(3)
    ]
    odds = sum(
        math.log(p / (1 - p)) * (1 if v == "1" else -1) for p, v in zip(hit, "110", strict=True)
    )
    probability = 1 / (1 + math.exp(-odds))
    assert probability == pytest.approx(0.710594, abs=5e-7)
