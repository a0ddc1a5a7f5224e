"""What one forward computes: a token of each reply, and pieces of prompts, behind each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.hosting.lora import Adapter
from preftune.hosting.shelves import Shape, Shelf


@dataclass(kw_only=True, eq=False, slots=True)
class Reading:
    """A prompt that is being read, with its keys and values so far."""

    ids: tuple[int, ...]
    held: Float[Tensor, "layers 2 G T D"]
    adapter: Adapter | None = None
    every: bool = False  # logits after each token are wanted, not only after the last
    read: int = 0

    @property
    def done(self) -> bool:
        """Whether all of it has been read."""
        return self.read == len(self.ids)


@dataclass(kw_only=True, slots=True)
class Rows:
    """The replies of one shelf: one new token each."""

    begin: int  # in the stream
    held: Float[Tensor, "b layers 2 G L D"]
    lengths: Int[Tensor, " b"]  # tokens before the new one
    places: Int[Tensor, " b"]
    bias: Float[Tensor, "b 1 1 L"] | None

    @property
    def end(self) -> int:
        """Where they end in the stream."""
        return self.begin + len(self.lengths)


@dataclass(kw_only=True, slots=True)
class Chunk:
    """Tokens `start` to `stop` of a prompt."""

    begin: int  # in the stream
    reading: Reading
    start: int
    stop: int
    bias: Float[Tensor, "t L"] | None  # None: the prompt's beginning, plainly causal

    @property
    def end(self) -> int:
        """Where it ends in the stream."""
        return self.begin + self.stop - self.start

    @property
    def kept(self) -> range:
        """Places of the stream whose logits are wanted."""
        if self.reading.every:
            return range(self.begin, self.end)
        return range(self.end - 1, self.end) if self.stop == len(self.reading.ids) else range(0)


@dataclass(kw_only=True, slots=True)
class Plan:
    """What one forward computes."""

    layers: dict[nn.Module, int]  # attention layers, in the order of the forward
    rows: list[Rows] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def written(self) -> int:
        """How many replies get a token."""
        return self.rows[-1].end if self.rows else 0


def plan_of(
    sizes: "Sizes", shelves: Sequence[Shelf[Any]], pieces: Sequence[tuple[Reading, int]]
) -> Plan:
    """Return the plan of a token for each reply and some tokens of each of these prompts."""
    plan, at, shape = Plan(layers=sizes.layers), 0, sizes.shape
    for shelf in shelves:
        plan.rows.append(_rows(shelf, at, shape))
        at = plan.rows[-1].end
    for reading, tokens in pieces:
        start, stop = reading.read, reading.read + tokens
        bias = None
        if start:
            seen = torch.arange(stop, device=shape.device)
            behind = seen > torch.arange(start, stop, device=shape.device)[:, None]
            bias = torch.zeros(tokens, stop, dtype=shape.dtype, device=shape.device)
            bias.masked_fill_(behind, -torch.inf)
        plan.chunks.append(Chunk(begin=at, reading=reading, start=start, stop=stop, bias=bias))
        at = plan.chunks[-1].end
    return plan


def _rows(shelf: Shelf[Any], begin: int, shape: Shape) -> Rows:
    lengths = torch.tensor(shelf.lengths, device=shape.device)
    longest, bias = max(shelf.lengths) + 1, None
    if min(shelf.lengths) + 1 < longest:
        behind = torch.arange(longest, device=shape.device) > lengths[:, None]
        bias = torch.zeros(behind.shape, dtype=shape.dtype, device=shape.device)
        bias = bias.masked_fill_(behind, -torch.inf)[:, None, None]
    return Rows(
        begin=begin,
        held=shelf.held[: len(lengths), ..., :longest, :],
        lengths=lengths,
        places=torch.arange(len(lengths), device=shape.device),
        bias=bias,
    )


@dataclass(kw_only=True, slots=True)
class Sizes:
    """What a model's attention layers keep of a token, in the order of its forward."""

    layers: dict[nn.Module, int] = field(default_factory=dict)
    seen: set[tuple[int, int, int]] = field(default_factory=set)  # heads, widths of key and value
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def shape(self) -> Shape:
        """The keys and values of one token.

        Raises:
            NotImplementedError: layers of different sizes, or keys wider than values.
        """
        if len(self.seen) != 1 or (size := next(iter(self.seen)))[1] != size[2]:
            raise NotImplementedError("its layers do not keep keys and values of one size")
        return Shape(
            layers=len(self.layers),
            heads=size[0],
            width=size[1],
            dtype=self.dtype,
            device=self.device,
        )

    def note(self, module: nn.Module, key: Tensor, value: Tensor) -> None:
        """Note what one layer keeps."""
        self.layers.setdefault(module, len(self.layers))
        self.seen.add((key.shape[1], key.shape[3], value.shape[3]))
        self.dtype = key.dtype
