"""Keys and values of replies of any length, which come and go one by one.

    shelf of capacity C:  [places, layers, 2, G, C, D]

A reply stands on the shelf whose capacity is the next power of two, so at most half of what an
attention reads there is padding; when it is full it moves to the next. A place is one block of
memory: a move is one copy, and the hole that a reply leaves is filled by the last one.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 128  # tokens; shorter rows gain nothing from a shelf of their own
FEWEST = 4  # places of a shelf at first

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The keys and values of one token of a model."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """What one token takes."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize

    def room(self, *first: int, tokens: int) -> Tensor:
        """Return room for keys and values, `[*first, layers, 2, heads, tokens, width]`.

        It is zeroed: what a mask hides must still be numbers, for 0 times NaN is NaN.
        """
        return torch.zeros(
            *first,
            self.layers,
            2,
            self.heads,
            tokens,
            self.width,
            dtype=self.dtype,
            device=self.device,
        )


class Shelf(Generic[T]):
    """Replies of like length, in the first places of one tensor."""

    def __init__(self, capacity: int, shape: Shape) -> None:
        self.capacity = capacity
        self.held = shape.room(FEWEST, tokens=capacity)
        self.rows: list[T] = []
        self.lengths: list[int] = []

    def put(self, row: T, held: Float[Tensor, "layers 2 G t D"], length: int) -> None:
        """Give a row the next place and copy its first tokens there."""
        place = len(self.rows)
        if place == len(self.held):
            roomier = self.held.new_zeros(2 * place, *self.held.shape[1:])
            roomier[:place] = self.held
            self.held = roomier
        self.held[place, ..., :length, :] = held[..., :length, :]
        self.rows.append(row)
        self.lengths.append(length)

    def take(self, place: int) -> None:
        """Free a place; the last row moves into it."""
        row, length = self.rows.pop(), self.lengths.pop()
        last = len(self.rows)
        if place != last:
            self.held[place, ..., :length, :] = self.held[last, ..., :length, :]
            self.rows[place], self.lengths[place] = row, length


class Shelves(Generic[T]):
    """The keys and values of all replies of one model."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.by_capacity: dict[int, Shelf[T]] = {}

    def put(self, row: T, held: Float[Tensor, "layers 2 G t D"], length: int) -> None:
        """Add a row with its first `length` tokens."""
        capacity = capacity_for(length + 1)
        if capacity not in self.by_capacity:
            self.by_capacity[capacity] = Shelf(capacity, self.shape)
        self.by_capacity[capacity].put(row, held, length)

    def take(self, row: T) -> None:
        """Remove a row; an empty shelf gives its memory back."""
        for capacity, shelf in self.by_capacity.items():
            if row in shelf.rows:
                shelf.take(shelf.rows.index(row))
                if not shelf.rows:
                    del self.by_capacity[capacity]
                return

    def make_room(self) -> None:
        """Move every row that has no room for one more token to the next shelf."""
        full = [
            (shelf, row)
            for shelf in self.by_capacity.values()
            for row, length in zip(shelf.rows, shelf.lengths, strict=True)
            if length == shelf.capacity
        ]
        for shelf, row in full:
            place = shelf.rows.index(row)
            self.put(row, shelf.held[place], shelf.lengths[place])
            shelf.take(place)
            if not shelf.rows:
                del self.by_capacity[shelf.capacity]

    def written(self) -> None:
        """Note that each row holds one token more."""
        for shelf in self.by_capacity.values():
            shelf.lengths = [length + 1 for length in shelf.lengths]

    def shelves(self) -> list[Shelf[T]]:
        """Return the shelves that hold any row."""
        return list(self.by_capacity.values())

    def rows(self) -> list[T]:
        """Return all rows, shelf after shelf."""
        return [row for shelf in self.by_capacity.values() for row in shelf.rows]

    @property
    def bytes(self) -> int:
        """Memory of all places, free ones included."""
        return sum(shelf.held.nbytes for shelf in self.by_capacity.values())


def capacity_for(tokens: int) -> int:
    """Return the capacity of the shelf for so many tokens: 128, 256, 512 and so on."""
    return max(SMALLEST, 1 << (tokens - 1).bit_length())
