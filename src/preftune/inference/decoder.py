"""One batch of prompts, read once and then continued token by token: whichever way a model allows.

`PackedDecoder` reads the prompts as one stream without padding and keeps each of them once, see
`prompt_cache.py`. It is for processors and for models whose attention sees everything and goes
through transformers' attention interface: a few tokens are tried, nothing is assumed. Every other
model goes through `PaddedDecoder`, unchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface

from preftune.engine.attention import packed_attention_forward
from preftune.engine.core import sees_everything, tolerance
from preftune.engine.layout import Layout, packed
from preftune.inference.lean import Lean
from preftune.inference.padded import PaddedDecoder, causal_model, forward_takes
from preftune.inference.prompt_cache import Cache, Layer, buckets
from preftune.models.tokens import TokenSequence

NAME = "preftune-decoder"
PATIENCE = 4  # steps of as many rows before the weights are packed for them: it takes about two


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What was found when a model was tried: why it is padded, and whether `Lean` is right."""

    why_padded: str
    lean: bool


FITS: "WeakKeyDictionary[nn.Module, Fit]" = WeakKeyDictionary()  # by model; tried once


def decoder_for(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], *, pad_id: int, new_tokens: int
) -> "PackedDecoder | PaddedDecoder":
    """Return the fastest decoder of a batch that gives what the model's own forward gives.

    Args:
        model: any causal language model of transformers, adapters of PEFT included.
        prompts: one for each row; equal ones stand behind each other, longer ones first.
        pad_id: any valid id.
        new_tokens: most tokens of a reply.

    Raises:
        ModelError: a model with a recurrent state, whose rows cannot be padded.
    """
    whole = _unanswered((pad_id,) * (max(map(len, prompts)) + new_tokens))
    if sees_everything(model, model, [whole]) and not why_padded(model):
        causal = causal_model(model)
        return PackedDecoder(model, prompts, Lean(causal) if FITS[causal].lean else None)
    return PaddedDecoder(model, prompts, pad_id)


def _unanswered(ids: tuple[int, ...]) -> TokenSequence:
    return TokenSequence(prompt_ids=ids, response_ids=(), own=(False,) * len(ids))


def why_padded(model: nn.Module) -> str:
    """Return why a model's prompts are padded, "" if they are not.

    The first time a few tokens are written and compared with the model's own forward.
    """
    if (device := next(model.parameters()).device).type != "cpu":
        return f"on {device.type} its own attention is faster"
    causal = causal_model(model)
    if causal is not model and getattr(model.active_peft_config, "is_prompt_learning", False):
        return "its adapter writes a prompt of its own"
    if causal not in FITS:
        lean = not _tried(model, Lean)
        FITS[causal] = Fit(why_padded="" if lean else _tried(model, lambda _: None), lean=lean)
    return FITS[causal].why_padded


def _tried(model: nn.Module, way: Callable[[Any], Lean | None]) -> str:
    """Write two tokens to three rows of two prompts and return what is wrong with them."""
    causal = causal_model(model)
    if missing := {"logits_to_keep", "position_ids"} - forward_takes(model):
        return f"its forward does not take {', '.join(sorted(missing))}"
    size = int(causal.get_input_embeddings().weight.shape[0])
    ids = tuple((7 * place + 3) % size for place in range(9))
    prompts, new = (
        [ids[:5], ids[:5], ids[5:7]],
        torch.tensor([ids[6:], ids[7:9] + ids[:1], ids[2:5]]),
    )
    try:
        decoder = PackedDecoder(model, prompts, way(causal), patience=1)
        found = [decoder.start(), decoder.step(new[:, 0]), decoder.step(new[:, 1])]
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        return " ".join(str(error).split())[:120]
    for row, prompt in enumerate(prompts):
        whole = torch.tensor([[*prompt, *new[row, :2].tolist()]])
        expected = model(input_ids=whole).logits[0, -3:].float().log_softmax(-1)
        got = torch.stack([logits[row] for logits in found]).log_softmax(-1)
        if not bool((got - expected).abs().max() <= tolerance(model)):
            return f"{type(causal).__name__} needs its own attention"
    return ""


class PackedDecoder:
    """Prompts read as one stream, each kept once; rows that write in step, nothing padded."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[int, ...]],
        lean: Lean | None = None,
        *,
        patience: int = PATIENCE,
    ) -> None:
        """Take a model, the prompt of each row, and a quicker way through the model's layers.

        After `patience` steps of as many rows the weights are packed for them.
        """
        self.causal, self.lean = causal_model(model), lean
        self.device = next(model.parameters()).device
        self.prompts = list(dict.fromkeys(prompts))  # equal prompts are read once
        place = {prompt: number for number, prompt in enumerate(self.prompts)}
        self.owner = torch.tensor([place[prompt] for prompt in prompts])
        rows = torch.bincount(self.owner).tolist()
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])
        dtype, width = self.causal.dtype, int(self.causal.get_input_embeddings().weight.shape[1])
        self.buckets = buckets(
            [len(prompt) for prompt in self.prompts],
            rows,
            dtype=dtype,
            token_bytes=2 * width * dtype.itemsize,
        )
        self.layers: dict[nn.Module, Layer] = {}
        self.written = -1  # tokens of each reply in the cache; -1: the prompts are being read
        self.layout: Layout | None = None
        self.patience, self.alike = patience, 0  # steps of as many rows

    def start(self) -> Float[Tensor, "B V"]:
        """Read the prompts and return the logits of the first new token."""
        self.layout = packed([[_unanswered(prompt)] for prompt in self.prompts])
        logits = self._forward(self.layout.ids, self.layout.positions, self.layout.last)[0]
        self.layout, self.written = None, 0
        return logits[self.owner]

    def step(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Add one token to each row and return the logits of the next."""
        if self.lean is not None and self.alike == self.patience:
            self.lean.pack(len(token))
        self.alike += 1
        logits = self._forward(token[:, None], (self.lengths + self.written)[:, None], 1)[:, 0]
        self.written += 1
        return logits

    def keep(self, rows: Int[Tensor, " K"]) -> None:
        """Go on with these rows only, which are named in their order."""
        self.alike = 0
        if self.lean is not None:
            self.lean.unpack()
        self.lengths = self.lengths[rows]
        left, begin = [], 0
        for bucket in self.buckets:
            inside = (rows >= bucket.rows.start) & (rows < bucket.rows.stop)
            left.append(bucket.keep(rows[inside] - bucket.rows.start))
            bucket.rows = slice(begin, begin + len(bucket.owner))
            begin = bucket.rows.stop
        self.buckets = [bucket for bucket in self.buckets if len(bucket.owner)]
        for layer in self.layers.values():
            layer.keep(rows, left)

    def attend(
        self, module: nn.Module, query: Cache, key: Cache, value: Cache, scale: float
    ) -> Float[Tensor, "B 1 H E"]:
        """Return the attention of one new token in each row."""
        layer = self.layers[module]
        stacked = query.reshape(len(query), key.shape[1], -1, query.shape[3])
        own, own_mass = _flash(stacked, *layer.write(key, value, self.written), None, scale)
        whole = len(self.buckets) == 1
        joined = []
        for bucket, held in zip(self.buckets, layer.prompts, strict=True):
            rows = ... if whole else bucket.rows
            part, mass = _flash(bucket.stacked(stacked[rows]), *held, bucket.bias, scale)
            joined.append(bucket.joined(own[rows], own_mass[rows], part, mass))
        found = joined[0] if whole else torch.cat(joined)
        return found.reshape(len(query), 1, query.shape[1], -1)

    def _forward(
        self, ids: Int[Tensor, "R T"], positions: Int[Tensor, "R T"], kept: Tensor | int
    ) -> Float[Tensor, "R K V"]:
        """Return the logits after the places that are kept."""
        if self.lean is not None and self.layout is None:
            return self.lean.logits(ids, positions, None, self.attend).float()
        # A mask of four axes is taken by transformers as ready made; this attention reads none.
        with _attention(self.causal.base_model):
            out = self.causal(
                input_ids=ids,
                position_ids=positions,
                attention_mask=torch.empty(1, 1, 1, 1),
                use_cache=False,
                logits_to_keep=kept,
                decoder=self,
            )
        logits: Tensor = out.logits
        return logits.float()


def attention_forward(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T E"],
    mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    decoder: PackedDecoder | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H E"], None]:
    """Return the attention of a decoder's rows; the interface's own signature.

    Raises:
        NotImplementedError: something this attention does not do was asked for.
    """
    names = ("s_aux", "position_bias", "head_mask", "softcap")
    asked = {name for name in names if kwargs.get(name) is not None}
    if decoder is None or dropout or asked or query.shape[3] != value.shape[3]:
        raise NotImplementedError(f"decoder's attention: dropout {dropout} or {asked}")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if decoder.layout is None:
        return decoder.attend(module, query, key, value, scale), None
    decoder.layers[module] = Layer()
    decoder.layers[module].read(key, value, decoder.buckets)
    layout = decoder.layout
    return packed_attention_forward(
        module, query, key, value, mask, scaling=scale, layout=layout, **kwargs
    )


AttentionInterface.register(NAME, attention_forward)


@contextmanager
def _attention(body: Any) -> Iterator[None]:
    """Let a transformers model use this attention inside the block."""
    before = body.config._attn_implementation
    body.config._attn_implementation = NAME
    try:
        yield
    finally:
        body.config._attn_implementation = before


def _flash(
    query: Cache, key: Cache, value: Cache, bias: Tensor | None, scale: float
) -> tuple[Cache, Float[Tensor, "_ _ _"]]:
    """Return attention and the log of the sum of its exponentiated scores."""
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, attn_mask=bias, scale=scale
    )
    return found


Decoder = PackedDecoder | PaddedDecoder
