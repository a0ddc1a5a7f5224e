"""The layers of a Llama-like decoder in half the operations that its own code takes.

A step of a small batch spends as long on starting operations as on computing them. Here a norm is
three operations instead of eight, a rotation three instead of fourteen, and no mask, cache or
option is looked at. The linear maps are the model's own, with whatever adapters and hooks are on
them, until `pack` puts their weights into the order that is multiplied fastest. The weights of the
norms are copied: where they change, this is made anew. What has other parts is refused; whoever
uses it compares it with the model's own forward first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.inference.packed_linear import Packed, can_pack

Heads = Float[Tensor, "R H T D"]
Attend = Callable[[nn.Module, Heads, Heads, Heads, float], Float[Tensor, "R T H D"]]
Map = Callable[[Tensor], Tensor]

BODY = {"embed_tokens", "layers", "norm", "rotary_emb"}
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
NORMS = {"q_norm", "k_norm"}  # of each head, in some models
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Maps:
    """What multiplies: queries, keys and values of a layer side by side, and so on."""

    heads: Map
    out: Map
    gate_up: Map
    down: Map


class Lean:
    """A causal language model of Llama's kind (Llama, Mistral, Qwen 2 and 3 among others)."""

    def __init__(self, causal: Any) -> None:
        """Take a model of transformers.

        Raises:
            NotImplementedError: it has other parts than these.
        """
        self.body: Any = getattr(causal, "model", None)
        self.head: Any = causal.get_output_embeddings()
        if self.body is None or _parts(self.body) != BODY:
            raise NotImplementedError("not of Llama's kind")
        for layer in self.body.layers:
            attention = _parts(layer.self_attn)
            known = attention in (ATTENTION, ATTENTION | NORMS) and _parts(layer.mlp) == MLP
            if _parts(layer) != LAYER or not known:
                raise NotImplementedError("not of Llama's kind")
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                if not hasattr(norm, "variance_epsilon"):
                    raise NotImplementedError("its norms are others than Llama's")
        queries = int(self.body.config.num_attention_heads)
        keys = int(self.body.config.num_key_value_heads)
        self.heads = queries + 2 * keys
        self.queries_and_keys, self.turned_and_not = (queries, keys), (queries + keys, keys)
        self.norms = [
            (_Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm))
            for layer in self.body.layers
        ]
        self.last_norm = _Norm(self.body.norm)
        self.maps, self.to_words = self._maps(_side_by_side)
        self.packed: tuple[int, list[Maps], Map] | None = None  # tokens, layers, head

    def pack(self, tokens: int) -> None:
        """Keep a copy of the weights in the order in which so many tokens go through them fastest.

        The copy holds the adapters' part as well. It is a copy: what the model learns afterwards is
        not in it. Nothing happens where there is no such order, see `can_pack`.
        """
        modules = [module for layer in self.body.layers for module in _linear(layer)]
        if can_pack([*modules, self.head], tokens):
            self.packed = (tokens, *self._maps(lambda *maps: Packed(maps, tokens)))

    def unpack(self) -> None:
        """Let the copy go."""
        self.packed = None

    def logits(
        self,
        ids: Int[Tensor, "R T"],
        positions: Int[Tensor, "R T"],
        kept: Int[Tensor, " K"] | None,
        attend: Attend,
    ) -> Float[Tensor, "R K V"]:
        """Return the logits after the places `kept` of each row, after all of them where None.

        Args:
            ids: tokens.
            positions: of the tokens in their own sequence.
            kept: places of the rows.
            attend: gets an attention module, queries, keys, values and their scale.
        """
        every, to_words = self.maps, self.to_words
        if self.packed is not None and self.packed[0] == ids.numel() and kept is None:
            _, every, to_words = self.packed
        hidden = self.body.embed_tokens(ids)
        cos, sin = self.body.rotary_emb(hidden, position_ids=positions)
        half = cos.shape[-1] // 2
        turn = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]
        for layer, norms, maps in zip(self.body.layers, self.norms, every, strict=True):
            before, after = norms
            hidden = hidden + self._attended(layer, maps, before(hidden), turn, attend)
            gate, up = maps.gate_up(after(hidden)).chunk(2, -1)
            hidden = hidden + maps.down(layer.mlp.act_fn(gate) * up)
        if kept is not None:
            hidden = hidden[:, kept]
        return to_words(self.last_norm(hidden))

    def _attended(
        self, layer: Any, maps: Maps, found: Tensor, turn: tuple[Tensor, Tensor], attend: Attend
    ) -> Float[Tensor, "R T W"]:
        """Return what the attention of a layer adds."""
        attention, (rows, tokens) = layer.self_attn, found.shape[:2]
        heads = maps.heads(found).view(rows, tokens, self.heads, attention.head_dim)
        turned, value = heads.split(self.turned_and_not, 2)
        if hasattr(attention, "q_norm"):
            query, key = turned.split(self.queries_and_keys, 2)
            query, key = _normed(attention.q_norm, query), _normed(attention.k_norm, key)
            turned = torch.cat([query, key], 2)
        query, key = _turned(turned, turn).transpose(1, 2).split(self.queries_and_keys, 1)
        out = attend(attention, query, key, value.transpose(1, 2), attention.scaling)
        return maps.out(out.reshape(rows, tokens, -1))

    def _maps(self, joined: Callable[..., Map]) -> tuple[list[Maps], Map]:
        """Return what multiplies in each layer, and what comes last."""
        layers = []
        for layer in self.body.layers:
            query, key, value, out, gate, up, down = _linear(layer)
            layers.append(
                Maps(
                    heads=joined(query, key, value),
                    out=joined(out),
                    gate_up=joined(gate, up),
                    down=joined(down),
                )
            )
        return layers, joined(self.head)


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _linear(layer: Any) -> tuple[nn.Module, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    heads = (attention.q_proj, attention.k_proj, attention.v_proj)
    return (*heads, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _side_by_side(*modules: nn.Module) -> Map:
    """Return the modules' own forwards as one."""

    def joined(x: Tensor) -> Tensor:
        return torch.cat([module(x) for module in modules], -1)

    return modules[0] if len(modules) == 1 else joined


class _Norm:
    """x over its root mean square, times the weights, as one layer norm.

    [x, -x] has mean 0 and the mean square of x for its variance. PyTorch has no such operation of
    one kernel for processors; its `rms_norm` is eight.
    """

    def __init__(self, norm: Any) -> None:
        self.eps, self.twice = norm.variance_epsilon, torch.cat([norm.weight.detach()] * 2)

    def __call__(self, x: Float[Tensor, "R T W"]) -> Float[Tensor, "R T W"]:
        """Return what the module returns."""
        width = x.shape[-1]
        both = F.layer_norm(torch.cat([x, -x], -1), (2 * width,), self.twice, None, self.eps)
        return both[..., :width]


def _normed(norm: Any, x: Tensor) -> Tensor:
    """Return x over its root mean square, times the weights."""
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _turned(x: Float[Tensor, "R T H D"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "R T H D"]:
    """Return heads turned by their positions: (a, b) becomes (a cos - b sin, b cos + a sin).

    Source: Su et al. 2021, "RoFormer", arXiv:2104.09864, in the halves that Llama's code uses.
    """
    cos, sin = turn  # the first half of the sines is negative
    return torch.addcmul(x * cos, x.roll(cos.shape[-1] // 2, -1), sin)
