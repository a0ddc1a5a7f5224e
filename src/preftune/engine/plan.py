"""How much memory a run will need at its peak, counted before any weight is loaded.

The model is built on torch's meta device, where tensors have shapes and no content. One forward
there shows what each token leaves behind for the backward, whatever the architecture.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from preftune.engine.core import packed_hidden, padded_hidden
from preftune.engine.head import CHUNK_ELEMENTS
from preftune.engine.layout import packed, padded
from preftune.engine.segments import LONGEST_ROW
from preftune.engine.settings import MOST_TOKENS
from preftune.models.quantised import BYTES
from preftune.models.tokens import TokenSequence

FP32, BF16 = 4, 2  # bytes
LIBRARIES = 450 << 20  # bytes of Python, torch and transformers, measured
MOMENTS = 2  # fp32 numbers that AdamW keeps per trained weight
HOLES, HOLES_OF_ADAPTER = 0.3, 1.0  # bytes malloc cannot use again, per byte of activations
LENGTHS = (64, 128, 256)  # tokens of the forwards whose differences are counted
USABLE = 0.8  # share of the available memory that a plan may fill


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What decides the memory of a model."""

    parameters: int
    trained: int  # of the parameters
    table: int  # trained parameters of the embedding, whose gradient is made in one piece
    vocabulary: int  # rows of the output layer; 0: a score instead of tokens
    layers: int
    width: int
    saved: int  # bytes that all layers keep per token for the backward
    saved_square: float = 0.0  # the same per token and token of its row: weights of the attention
    packed: int = 0  # of the parameters, those kept in 4 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Bytes in use at the peak of a run, by what uses them."""

    libraries: int
    weights: int
    optimizer: int
    copies: int  # frozen ones, of all weights
    gradients: int = 0
    activations: int = 0
    head: int = 0
    working: int = 0  # gradients on their way through a layer
    holes: int  # freed, in pieces too small to be used again

    @property
    def total(self) -> int:
        """Return the sum of all parts in bytes."""
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A run as memory sees it: its model, its largest step and how it is computed."""

    size: Size
    dtype: torch.dtype  # of computing; bf16 keeps fp32 masters of what is trained
    step_tokens: int  # in the stream of the largest step
    longest_row: int  # tokens in the stream
    own_frac: float  # share of the tokens whose log-prob is read
    recompute: bool = False
    chunked: bool = True  # the head in chunks; else all logits at once
    copies: int = 0  # frozen fp32 copies of all weights

    def micro_tokens(self, wish: int) -> int:
        """Return the most tokens that go through the model at once when `wish` are allowed."""
        return min(self.step_tokens, max(wish, self.longest_row)) if wish else self.step_tokens

    def parts(self, micro_tokens: int) -> Parts:
        """Return what is in use at the peak: measured peaks were within about 20 % of its total.

        Three moments are compared: the end of the forward (activations and logits), the start of
        the backward (activations, the embedding's gradient, one layer's intermediate gradients)
        and its end (all gradients). With several forwards in a step, the gradients of those before
        are there all the time; among those, more tokens never need less memory.

        Args:
            micro_tokens: most tokens per forward; 0: the whole step at once.
        """
        tokens = self.micro_tokens(micro_tokens)
        gradients, table = FP32 * self.size.trained, FP32 * self.size.table
        before = gradients if tokens < self.step_tokens else 0
        kept, layer = self._kept(tokens), tokens * self._saved() // self.size.layers
        moments = (
            {"gradients": before, "activations": kept, "head": self._head(tokens)},
            {"gradients": before + table, "activations": kept, "working": layer},
            {"gradients": gradients, "working": table},
        )
        share = HOLES_OF_ADAPTER if self.size.trained < self.size.parameters else HOLES
        return Parts(
            libraries=LIBRARIES,
            weights=self._weights(),
            optimizer=FP32 * MOMENTS * self.size.trained,
            copies=self.copies * FP32 * self.size.parameters,
            holes=round(share * (kept + layer)),
            **max(moments, key=lambda moment: sum(moment.values())),
        )

    def peak(self, micro_tokens: int) -> int:
        """Return the bytes in use at the peak of the run; see `parts`."""
        return self.parts(micro_tokens).total

    def _weights(self) -> int:
        """Return the bytes of the weights that compute, and of their fp32 masters."""
        masters = FP32 * self.size.trained if self.dtype != torch.float32 else 0
        plain = self.size.parameters - self.size.packed
        return self.dtype.itemsize * plain + round(BYTES * self.size.packed) + masters

    def _kept(self, tokens: int) -> int:
        """Return the bytes kept for the backward: of all layers, or only between them."""
        if not self.recompute:
            return tokens * self._saved()
        between = self.size.layers * self.size.width * self.dtype.itemsize
        return tokens * (between + self._saved() // self.size.layers)

    def _saved(self) -> int:
        """Return the bytes that all layers keep per token; longer rows keep no weights."""
        row = min(self.longest_row, LONGEST_ROW)
        return self.size.saved + round(row * self.size.saved_square)

    def _head(self, tokens: int) -> int:
        """Return the bytes of the logits, and of the copy that their sum of exponentials takes."""
        own = round(tokens * self.own_frac) if self.chunked else tokens
        logits = own * self.size.vocabulary
        if self.chunked:
            logits = min(logits, max(CHUNK_ELEMENTS, self.size.vocabulary))
        return logits * (2 * FP32 + (BF16 if self.dtype != torch.float32 else 0))


def size_of(model: Any, body: Any, *, vocabulary: int) -> Size:
    """Return the size of a model on the meta device.

    Args:
        model: a causal language model or reward model, under PEFT or not.
        body: its stack of layers, without the head.
        vocabulary: tokens the output layer tells apart; 0 for a reward model.
    """
    table = body.get_input_embeddings().weight
    saved, square = _growth([_saved_bytes(model, body, tokens) for tokens in LENGTHS])
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        table=table.numel() if table.requires_grad else 0,
        vocabulary=vocabulary,
        layers=int(body.config.get_text_config().num_hidden_layers),
        width=int(table.shape[1]),
        saved=round(saved),
        saved_square=square,
    )


def _growth(sizes: Sequence[int]) -> tuple[float, float]:
    """Return the bytes per token, and per token and token of its row, from three row lengths."""
    short, middle, long = LENGTHS
    first = (sizes[1] - sizes[0]) / (middle - short)
    second = (sizes[2] - sizes[1]) / (long - middle)
    square = (second - first) / (long - short)
    return first - (short + middle) * square, square


def fitting_micro_tokens(
    peak: Callable[[int], int], available_bytes: int, *, longest_row: int
) -> int:
    """Return the most tokens per forward whose peak stays below 80 % of the memory there is.

    It is a power of two, at most 16384, and never below the longest row, which goes through whole:
    when nothing fits, it is the smallest that holds that row.

    Args:
        peak: the bytes at the peak for so many tokens per forward.
        available_bytes: memory that can be used.
        longest_row: tokens of the longest row.
    """
    tokens = MOST_TOKENS
    while tokens < longest_row:
        tokens *= 2
    while tokens // 2 >= longest_row and peak(tokens) > USABLE * available_bytes:
        tokens //= 2
    return tokens


def _saved_bytes(model: Any, body: Any, tokens: int) -> int:
    """Return the bytes that a forward of one sequence keeps for the backward, weights aside."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = _forward(body, tokens)
    del hidden
    return sum(int(storage.nbytes()) for storage in kept.values())


def _forward(body: Any, tokens: int) -> Tensor:
    own = (False, *(True,) * (tokens - 1))
    sequence = TokenSequence(prompt_ids=(0,), response_ids=(0,) * (tokens - 1), own=own)
    device = next(body.parameters()).device
    try:
        return packed_hidden(body, packed([[sequence]]).to(device))
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError):
        return padded_hidden(body, padded([[sequence]]).to(device))
