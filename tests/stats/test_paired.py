import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from preftune.errors import DataError
from preftune.stats.intervals import zero_failure_bound
from preftune.stats.paired import (
    clustered_paired_difference,
    holm,
    mcnemar_exact,
    paired_difference,
    paired_p_value,
)


@pytest.mark.parametrize(
    ("lost", "gained", "low"), [(6, 3, -0.026421), (7, 2, -0.033039), (11, 3, -0.047025)]
)
def test_lower_bound_matches_the_table(lost: int, gained: int, low: float) -> None:
    found = paired_difference(gained=gained, lost=lost, n=300)
    assert found.low == pytest.approx(low, abs=5e-7)
    assert found.difference == pytest.approx((gained - lost) / 300)
    assert not found.exact


def test_standard_error_matches_the_table() -> None:
    assert paired_difference(gained=3, lost=6, n=300).se == pytest.approx(0.009983, abs=5e-7)


def test_no_discordant_item_gives_the_exact_bound_on_both_sides() -> None:
    found = paired_difference(gained=0, lost=0, n=60)
    assert (found.low, found.high) == pytest.approx((-0.048703, 0.048703), abs=5e-7)
    assert found.exact


def test_nothing_lost_still_leaves_room_for_unseen_losses() -> None:
    # Wald: .05 - 1.645 * .0487 = -.030; 20 items leave losses of 13.9 % open: .05 - .139 = -.089
    found = paired_difference(gained=1, lost=0, n=20)
    assert found.low == pytest.approx(0.05 - zero_failure_bound(20))
    assert found.exact


def test_swapping_the_systems_negates_the_difference_and_its_bounds() -> None:
    one, other = (
        paired_difference(gained=2, lost=7, n=90),
        paired_difference(gained=7, lost=2, n=90),
    )
    assert (one.difference, one.low, one.high) == pytest.approx(
        (-other.difference, -other.high, -other.low)
    )


def test_clusters_of_one_agree_with_the_closed_form_up_to_n_minus_1() -> None:
    baseline = [True] * 6 + [False] * 3 + [True] * 291
    candidate = [False] * 6 + [True] * 3 + [True] * 291
    found = clustered_paired_difference(
        baseline=baseline, candidate=candidate, clusters=list(range(300))
    )
    assert found.se == pytest.approx(0.009983319421 * (300 / 299) ** 0.5)
    assert (found.lost, found.gained, found.n, found.clusters) == (6, 3, 300, 300)


def test_copies_of_a_prompt_add_no_certainty() -> None:
    baseline, candidate = [True, True, False, True, True], [False, True, True, True, False]
    once = clustered_paired_difference(
        baseline=baseline, candidate=candidate, clusters=list(range(5))
    )
    four_times = clustered_paired_difference(
        baseline=baseline * 4, candidate=candidate * 4, clusters=list(range(5)) * 4
    )
    assert (four_times.low, four_times.high) == pytest.approx((once.low, once.high))


def test_one_cluster_gives_no_error_bar() -> None:
    found = clustered_paired_difference(
        baseline=[True, False], candidate=[True, True], clusters=["a", "a"]
    )
    assert (found.low, found.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (6, 3, 0.507812),
        (7, 2, 0.179688),
        (11, 3, 0.057373),
        (41, 1, 1.95541e-11),
        (218, 1, 5.22256e-64),
        (5, 5, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_matches_the_table(lost: int, gained: int, p: float) -> None:
    assert mcnemar_exact(gained=gained, lost=lost) == pytest.approx(p, rel=4e-6)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_statsmodels(lost: int, gained: int) -> None:
    other = mcnemar([[3, lost], [gained, 3]], exact=True).pvalue
    assert mcnemar_exact(gained=gained, lost=lost) == pytest.approx(other)


def test_p_value_of_single_items_is_mcnemar_exact_below_26() -> None:
    baseline = [True] * 11 + [False] * 3 + [True] * 20
    candidate = [False] * 11 + [True] * 3 + [True] * 20
    found = paired_p_value(baseline=baseline, candidate=candidate, clusters=list(range(34)))
    assert found == pytest.approx(0.057373, abs=5e-7)


def test_p_value_by_bootstrap_is_small_for_a_clear_loss_and_large_for_none() -> None:
    clear = paired_p_value(
        baseline=[True] * 60, candidate=[False] * 40 + [True] * 20, clusters=list(range(60))
    )
    assert clear == pytest.approx(2 / 2001)
    even = paired_p_value(
        baseline=[True, False] * 20, candidate=[False, True] * 20, clusters=list(range(40))
    )
    assert even > 0.5


def test_copies_of_a_prompt_do_not_shrink_the_exact_p_value() -> None:
    baseline, candidate = [True] * 5, [False] * 5
    once = paired_p_value(baseline=baseline, candidate=candidate, clusters=list(range(5)))
    copied = paired_p_value(
        baseline=baseline * 4, candidate=candidate * 4, clusters=list(range(5)) * 4
    )
    assert once == copied == pytest.approx(2 / 32)


def test_a_and_a_raise_few_false_alarms() -> None:
    alarms = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        skill = rng.uniform(0.6, 1.0, size=150)
        one, two = (rng.uniform(size=(2, 150)) < skill).tolist()
        alarms += (
            clustered_paired_difference(baseline=one, candidate=two, clusters=list(range(150))).high
            < 0
        )
    assert alarms / 400 <= 0.07


def test_holm_matches_hand_calculation() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.integers(0, 200), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(thousandths: list[int]) -> None:
    p_values, alpha = [p / 1000 for p in thousandths], 0.0503
    rejected = set()
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(order):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_bad_counts_are_refused() -> None:
    with pytest.raises(DataError, match="6 gained and 5 lost of 10"):
        paired_difference(gained=6, lost=5, n=10)
    with pytest.raises(DataError, match="2 baseline, 1 candidate"):
        clustered_paired_difference(baseline=[True, True], candidate=[True], clusters=["a", "b"])
    with pytest.raises(DataError, match="-1 gained"):
        mcnemar_exact(gained=-1, lost=0)
