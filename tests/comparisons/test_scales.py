import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.comparisons.scales import (
    grade_from_five,
    grade_from_four,
    grade_of,
    grade_probabilities,
    signed_strength,
)
from preftune.errors import DataError


def test_signed_strength_is_positive_where_the_first_is_better() -> None:
    assert [signed_strength(grade) for grade in range(1, 8)] == [3, 2, 1, 0, -1, -2, -3]


@given(st.integers(1, 7))
def test_grade_of_undoes_signed_strength(grade: int) -> None:
    assert grade_of(signed_strength(grade)) == grade


def test_five_levels_have_strengths_2_1_0_1_2() -> None:
    assert [signed_strength(grade_from_five(level)) for level in range(1, 6)] == [2, 1, 0, -1, -2]


def test_four_levels_have_strengths_0_to_3_on_the_named_side() -> None:
    levels = range(1, 5)
    assert [signed_strength(grade_from_four(n, better=0)) for n in levels] == [0, 1, 2, 3]
    assert [signed_strength(grade_from_four(n, better=1)) for n in levels] == [0, -1, -2, -3]


def test_values_off_the_scale_are_refused() -> None:
    for call in (
        lambda: signed_strength(8),
        lambda: grade_of(-4),
        lambda: grade_from_five(0),
        lambda: grade_from_four(5, better=0),
        lambda: grade_from_four(1, better=2),
        lambda: grade_probabilities(0, cuts=(0.5, 0.5)),
    ):
        with pytest.raises(DataError):
            call()


def test_grade_probabilities_match_published_digits() -> None:
    one = [0.029312, 0.046546, 0.106567, 0.195115, 0.244919, 0.195115, 0.182426]
    assert grade_probabilities(1) == pytest.approx(one, abs=5e-7)
    assert grade_probabilities(0)[:4] == pytest.approx(
        [0.075858, 0.106567, 0.195115, 0.244919], abs=5e-7
    )


@given(st.floats(-30, 30))
def test_grade_probabilities_add_to_1_and_mirror(gap: float) -> None:
    probabilities = grade_probabilities(gap)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities == pytest.approx(grade_probabilities(-gap)[::-1], abs=1e-12)
