from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.engine.batches import Order, chunks, epoch_batches
from preftune.errors import SettingsError

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=200)


def order(lengths: list[int], *, epochs: float = 2.0, batch_size: int = 4, seed: int = 0) -> Order:
    return Order(lengths=tuple(lengths), batch_size=batch_size, epochs=epochs, seed=seed)


@given(lengths, st.integers(1, 9), st.integers(0, 5))
def test_every_row_comes_once_per_epoch(rows: list[int], batch_size: int, epoch: int) -> None:
    batches = epoch_batches(rows, batch_size, seed=1, epoch=epoch)
    assert sorted(chain.from_iterable(batches)) == list(range(len(rows)))
    assert all(len(batch) == batch_size for batch in sorted(batches, key=len)[1:])


@given(lengths, st.integers(0, 40))
def test_batches_from_the_middle_are_the_tail_of_the_whole_run(rows: list[int], at: int) -> None:
    whole = list(order(rows).batches())
    start = min(at, len(whole))
    assert list(order(rows).batches(start=start)) == whole[start:]


def test_seed_and_epoch_change_the_order() -> None:
    rows = list(range(1, 41))
    by_seed = [epoch_batches(rows, 4, seed=seed, epoch=0) for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    assert epoch_batches(rows, 4, seed=0, epoch=1) != by_seed[0]


def test_rows_of_like_length_share_a_batch() -> None:
    rows = [1, 50] * 32
    for batch in epoch_batches(rows, 8, seed=0, epoch=0):
        assert len({rows[row] for row in batch}) == 1


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (2.0, 6), (0.5, 2), (0.01, 1), (1.34, 4)])
def test_steps_follow_from_epochs(epochs: float, steps: int) -> None:
    nine_rows = order([5] * 9, epochs=epochs)
    assert nine_rows.steps == steps
    assert len(list(nine_rows.batches())) == steps


def test_no_rows_is_an_error() -> None:
    with pytest.raises(SettingsError, match="no rows"):
        order([])


def test_chunks_of_zero_is_everything() -> None:
    assert [list(part) for part in chunks([1, 2, 3], 0)] == [[1, 2, 3]]
    assert [list(part) for part in chunks([1, 2, 3], 2)] == [[1, 2], [3]]
    assert list(chunks([], 0)) == []


@given(lengths, st.integers(0, 300))
def test_micro_batches_are_the_first_epoch_cut_by_tokens(rows: list[int], tokens: int) -> None:
    cut = [list(micro) for micro in order(rows).micro_batches(tokens)]
    first = epoch_batches(rows, 4, seed=0, epoch=0)
    assert list(chain.from_iterable(cut)) == list(chain.from_iterable(first))
    assert all(len(micro) <= 4 for micro in cut)
    if tokens:
        assert all(len(m) == 1 or sum(rows[row] for row in m) <= tokens for m in cut)
