import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.prompts.quotas import quotas

PLENTY = 1000


@pytest.mark.parametrize(
    ("weights", "n", "expected"),
    [
        ((3, 1), 4, (3, 1)),
        # Sainte-Laguë by hand: 53/1, 24/1, 53/3=17.67, 23/1 … the seats of a parliament of 7
        ((53, 24, 23), 7, (3, 2, 2)),
        ((1, 1, 1), 3, (1, 1, 1)),
        ((0, 5), 4, (0, 4)),
    ],
)
def test_shares_are_those_of_websters_method(
    weights: tuple[float, ...], n: int, expected: tuple[int, ...]
) -> None:
    names = "abc"[: len(weights)]
    found = quotas(dict(zip(names, weights, strict=True)), dict.fromkeys(names, PLENTY), n=n)
    assert tuple(found.values()) == expected


def test_rare_slices_get_their_floor_or_all_they_have() -> None:
    found = quotas({"a": 98, "b": 1, "c": 1}, {"a": 98, "b": 10, "c": 2}, n=20, floor=4)
    assert found == {"a": 14, "b": 4, "c": 2}


def test_what_one_slice_cannot_give_goes_to_the_others() -> None:
    assert quotas({"a": 9, "b": 1}, {"a": 2, "b": 50}, n=20) == {"a": 2, "b": 18}


SLICES = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.floats(0, 100), st.integers(0, 30)), min_size=1
)


@given(SLICES, st.integers(0, 200), st.integers(0, 5))
def test_all_asked_for_are_taken_within_floors_and_stocks(
    slices: dict[str, tuple[float, int]], n: int, floor: int
) -> None:
    weights = {name: weight for name, (weight, _) in slices.items()}
    available = {name: count for name, (_, count) in slices.items()}
    least = sum(min(floor, count) for count in available.values())
    found = quotas(weights, available, n=max(n, least), floor=floor)
    assert sum(found.values()) == min(max(n, least), sum(available.values()))
    assert all(min(floor, available[s]) <= found[s] <= available[s] for s in slices)
