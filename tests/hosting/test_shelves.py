"""Keys and values on shelves: every row keeps its own, whoever comes, grows or leaves."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from preftune.hosting.shelves import Shape, Shelves, capacity_for

SHAPE = Shape(layers=2, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))


def test_capacities_are_powers_of_two_from_128() -> None:
    found = [capacity_for(tokens) for tokens in (1, 128, 129, 256, 257, 1000)]
    assert found == [128, 128, 256, 256, 512, 1024]


def test_token_bytes_are_keys_and_values_of_all_layers() -> None:
    assert SHAPE.token_bytes == 2 * 2 * 1 * 2 * 4


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("come"), st.sampled_from([1, 120, 126, 127, 128, 250, 255])),
            st.tuples(st.just("leave"), st.integers(0, 9)),
            st.tuples(st.just("write"), st.integers(1, 3)),
        ),
        max_size=25,
    )
)
def test_each_row_holds_what_was_written_to_it(steps: list[tuple[str, int]]) -> None:
    shelves: Shelves[int] = Shelves(SHAPE)
    expected: dict[int, torch.Tensor] = {}
    for number, (what, size) in enumerate(steps):
        if what == "come":
            held = torch.randn(2, 2, 1, size, 2)
            shelves.put(number, held, size)
            expected[number] = held
        elif what == "leave" and expected:
            row = list(expected)[size % len(expected)]
            shelves.take(row)
            del expected[row]
        elif what == "write":
            for _ in range(size):
                write(shelves, expected)
        assert sorted(shelves.rows()) == sorted(expected)
        for shelf in shelves.shelves():
            assert shelf.rows
            for place, (row, length) in enumerate(zip(shelf.rows, shelf.lengths, strict=True)):
                assert length <= shelf.capacity == capacity_for(max(length, shelf.capacity))
                assert torch.equal(shelf.held[place, ..., :length, :], expected[row])


def write(shelves: Shelves[int], expected: dict[int, torch.Tensor]) -> None:
    """Add a token to every row."""
    shelves.make_room()
    for shelf in shelves.shelves():
        for place, (row, length) in enumerate(zip(shelf.rows, shelf.lengths, strict=True)):
            new = torch.randn(2, 2, 1, 1, 2)
            shelf.held[place, ..., length : length + 1, :] = new
            expected[row] = torch.cat([expected[row], new], 3)
    shelves.written()


def test_empty_shelves_give_their_memory_back() -> None:
    shelves: Shelves[int] = Shelves(SHAPE)
    for row in range(9):
        shelves.put(row, torch.zeros(2, 2, 1, 5, 2), 5)
    assert shelves.bytes == 16 * 128 * SHAPE.token_bytes  # 4, 8, 16 places
    for row in range(9):
        shelves.take(row)
    assert shelves.bytes == 0
