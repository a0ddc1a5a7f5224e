"""The one fast core: log-probs of groups of responses, for every method.

The stream of `layout.packed` goes through an unchanged transformers model with the attention of
`attention.py`; `head.py` turns hidden states into log-probs. A model that cannot share prefixes
goes the unshared way (padded rows, its own attention, the same head), and `Core.note` says why.
`logprobs.token_logprobs` is the plain forward that both are checked against.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from preftune.engine.attention import packed_attention
from preftune.engine.compiled import CompiledLayers
from preftune.engine.head import Head, head_logprobs, log_collisions
from preftune.engine.layout import Layout, packed, padded, stream_length
from preftune.engine.logprobs import TokenLogprobs, token_logprobs
from preftune.engine.modes import evaluating
from preftune.engine.settings import EngineSettings
from preftune.errors import HealthError
from preftune.models.tokens import TokenSequence

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25}  # nats a token, against the plain forward
WORTH = 1.3  # rows are padded when that takes less than this many times the tokens of the stream
PAD_UP_TO = 512  # tokens; longer rows always gain from the stream
PROBE_TOKENS = 12
CHECK_TOKENS = 1024


@dataclass(kw_only=True, slots=True)
class Core:
    """A causal language model and the fastest way through it that gives the same numbers."""

    model: Any
    note: str = ""  # why prefixes are not shared; empty when they are
    own_head: bool = True  # False: logits come from the model's own forward
    temperature: float = 1.0  # logits are divided by it
    checked: bool = False
    recompute: bool = False
    compiled: CompiledLayers = field(default_factory=CompiledLayers)
    worth: float = WORTH
    tell: Callable[[str], object] = field(default=lambda _: None)
    told: bool = False

    @classmethod
    def of(
        cls, model: Any, settings: EngineSettings, *, tell: Callable[[str], object] | None = None
    ) -> "Core":
        """Return the core of a model after trying the fast way on a few tokens.

        Args:
            model: a causal language model of transformers, or one under PEFT.
            settings: the way wished for, and whether layers are computed again in the backward.
            tell: hears once why prompts are not shared, if they are not.
        """
        own_head, note = _what_works(model)
        if settings.engine == "plain":
            own_head, note = False, "--engine plain"
        if settings.recompute:
            recompute_layers(model)
        core = cls(
            model=model,
            note=note,
            own_head=own_head,
            recompute=settings.recompute,
            compiled=CompiledLayers.of(body_of(model)) if settings.compile else CompiledLayers(),
            tell=tell or (lambda _: None),
        )
        if note:
            core.say(note)
        return core

    def say(self, why: str) -> None:
        """Tell why prompts are not shared, the first time."""
        if not self.told:
            self.told = True
            self.tell(f"prompts are not shared: {why}")

    def token_logprobs(
        self, rows: Sequence[Sequence[TokenSequence]], *, collisions: bool = False
    ) -> TokenLogprobs:
        """Return the log-prob of every own token of every sequence, row after row, in nats.

        Args:
            rows: sequences that share a prefix (the responses to one prompt) in one row.
            collisions: also return log sum_v p_v^2 of each token's distribution.
        """
        if not self.own_head:
            sequences = [s for row in rows for s in row]
            return token_logprobs(self.model, sequences, temperature=self.temperature)
        if not self.checked:
            self.checked = True
            self.check(rows)
        layout, read = self.states(rows)
        head = replace(head_of(self.model), temperature=self.temperature)
        logprobs = head_logprobs(head, read, layout.targets)
        return TokenLogprobs(
            logprobs=spread(logprobs, layout),
            own=layout.own,
            log_collisions=spread(log_collisions(head, read), layout) if collisions else None,
        )

    def states(
        self, rows: Sequence[Sequence[TokenSequence]]
    ) -> tuple[Layout, Float[Tensor, "N D"]]:
        """Return the last hidden state before each own token, sequence after sequence."""
        layout, hidden = self._hidden(rows)
        return layout, hidden[layout.scored]

    def check(self, rows: Sequence[Sequence[TokenSequence]]) -> None:
        """Compare this way with the plain padded forward on the shortest of these rows.

        The first batch of every core is checked on its own.

        Raises:
            HealthError: they differ by more than rounding; the figures are in the message.
        """
        row = [_cut(sequence, CHECK_TOKENS) for sequence in min(rows, key=stream_length)]
        with evaluating(self.model):
            stream = replace(self, worth=0.0, checked=True, compiled=CompiledLayers())
            fast = stream.token_logprobs([row]).logprobs
            plain = token_logprobs(self.model, row, temperature=self.temperature).logprobs
        worst, allowed = (fast - plain).abs().max().item(), tolerance(self.model)
        if not worst <= allowed:
            raise HealthError(
                f"engine: log-probs of the first batch differ from the plain forward by "
                f"{worst:.2e} nats a token ({allowed:.0e} allowed). Use --engine plain, and "
                "report the model."
            )

    def shares(self, rows: Sequence[Sequence[TokenSequence]]) -> bool:
        """Return whether these rows go through as one stream."""
        sequences = [sequence for row in rows for sequence in row]
        return not self.note and sees_everything(self.model, self.model, sequences)

    def gains(self, rows: Sequence[Sequence[TokenSequence]]) -> bool:
        """Return whether one stream is enough shorter than padded rows to pay for itself.

        Rows of like length without a shared prompt, as in SFT, have little padding, and one
        attention over all of them is quicker than one for each.
        """
        lengths = [len(sequence) for row in rows for sequence in row]
        if max(lengths) > PAD_UP_TO:
            return True
        return len(lengths) * max(lengths) >= self.worth * sum(map(stream_length, rows))

    def _hidden(
        self, rows: Sequence[Sequence[TokenSequence]]
    ) -> tuple[Layout, Float[Tensor, "P D"]]:
        device, body = next(self.model.parameters()).device, body_of(self.model)
        with recomputing(body) if self.recompute else self.compiled.used():
            shares = self.shares(rows)
            if shares and self.gains(rows):
                layout = packed(rows).to(device)
                return layout, packed_hidden(body, layout)
            if not shares:
                self.say("a sliding window shorter than a row, or attention dropout")
            layout = padded(rows).to(device)
            return layout, padded_hidden(body, layout)


def packed_hidden(body: Any, layout: Layout) -> Float[Tensor, "P D"]:
    """Return the last hidden state at every place of a stream."""
    # A mask of four axes is taken by transformers as ready made; this attention does not read it.
    ready = torch.empty(1, 1, 1, 1, device=layout.ids.device)
    with packed_attention(body):
        out = body(
            input_ids=layout.ids,
            position_ids=layout.positions,
            attention_mask=ready,
            use_cache=False,
            layout=layout,
        )
    hidden: Tensor = out.last_hidden_state.flatten(0, 1)
    return hidden


def padded_hidden(body: Any, layout: Layout, **inputs: Tensor) -> Float[Tensor, "P D"]:
    """Return the last hidden state at every place of padded rows."""
    out = body(input_ids=layout.ids, attention_mask=layout.mask.long(), use_cache=False, **inputs)
    hidden: Tensor = out.last_hidden_state.flatten(0, 1)
    return hidden


def head_of(model: Any) -> Head:
    """Return the head of a causal language model with what its config does to the logits."""
    linear, config = _causal(model).get_output_embeddings(), _causal(model).config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(
        weight=linear.weight,
        bias=getattr(linear, "bias", None),
        scale=scale,
        softcap=float(softcap) if softcap else None,
    )


def _causal(model: Any) -> Any:
    """Return the transformers model itself; under PEFT its layers already hold the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_of(model: Any) -> Any:
    """Return the layers of a model without its head, adapters included."""
    return _causal(model).base_model


def spread(values: Float[Tensor, " N"], layout: Layout) -> Float[Tensor, "B W"]:
    """Return one row per sequence, own tokens from the left, 0 behind them."""
    empty = torch.zeros(layout.own.shape, dtype=values.dtype, device=values.device)
    return empty.masked_scatter(layout.own, values)


def sees_everything(model: nn.Module, backbone: Any, sequences: Sequence[TokenSequence]) -> bool:
    """Return whether every token attends to all before it: no dropout, no window too short."""
    if model.training and _attention_dropout(backbone):
        return False
    window = _window(backbone)
    return window is None or max(map(len, sequences)) <= window


def _window(model: Any) -> int | None:
    """Return the smallest sliding window of the model's layers, None when all see everything."""
    config = _causal(model).config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    return int(window)


def _attention_dropout(model: Any) -> float:
    config = _causal(model).config
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    return max(float(getattr(config, name, 0.0) or 0.0) for name in names)


def _what_works(model: Any) -> tuple[bool, str]:
    """Return whether our head is right, and why prefixes can't be shared ("" when they can).

    Tried on a few tokens against the model's own forward: nothing is assumed of an architecture.
    """
    size = int(_causal(model).get_input_embeddings().weight.shape[0])
    ids = tuple((7 * i + 3) % size for i in range(PROBE_TOKENS))
    own = (False,) * 4 + (True,) * (PROBE_TOKENS - 4)
    first = TokenSequence(prompt_ids=ids[:4], response_ids=ids[4:], own=own)
    second = TokenSequence(prompt_ids=ids[:4], response_ids=ids[:3:-1], own=own)
    rows = [(first, second)] * 2
    with evaluating(model):
        plain = token_logprobs(model, [s for row in rows for s in row]).logprobs
        unshared = Core(model=model, note="trying", checked=True)
        if not _near(unshared.token_logprobs(rows).logprobs, plain, tolerance(model)):
            return False, "its head is not a plain linear layer"
        name = type(_causal(model)).__name__
        try:
            shared = Core(model=model, checked=True, worth=0.0).token_logprobs(rows).logprobs
        except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            return True, f"{name}: {' '.join(str(error).split())[:120]}"
        same = _near(shared, plain, tolerance(model))
        return True, "" if same else f"{name} needs its own attention"


def _near(a: Tensor, b: Tensor, allowed: float) -> bool:
    return bool((a - b).abs().max() <= allowed)


def tolerance(model: nn.Module) -> float:
    """Return by how much a token's log-prob may differ between two ways, in nats."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return TOLERANCE[torch.float32 if dtypes == {torch.float32} else torch.bfloat16]


def _cut(sequence: TokenSequence, tokens: int) -> TokenSequence:
    """Return the first tokens of a sequence; its last one becomes its own, if none was left."""
    ids = tuple(sequence.ids)[:tokens]
    own = (*tuple(sequence.own)[: len(ids) - 1], True)
    prompt = min(len(sequence.prompt_ids), len(ids))
    return TokenSequence(prompt_ids=ids[:prompt], response_ids=ids[prompt:], own=own)


def recompute_layers(model: Any) -> None:
    """Prepare a model to compute each layer again in the backward, see `recomputing`."""
    _causal(model)._set_gradient_checkpointing(
        enable=True, gradient_checkpointing_func=partial(_again, body_of(model))
    )


@contextmanager
def recomputing(body: Any) -> Iterator[None]:
    """Keep only the input of each layer in a forward inside the block.

    transformers does so for layers in training mode alone; here the layer itself is, while all
    inside it stays as it was. Layers with a dropout of their own are left out: they would use it.
    """
    layers = [
        module
        for module in body.modules()
        if isinstance(module, GradientCheckpointingLayer)
        and not module.training
        and not (isinstance(getattr(module, "dropout", None), float) and module.dropout)
    ]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _again(body: Any, function: Any, *inputs: Any) -> Any:
    """Run a layer under a checkpoint; the second time the attention must be the same one."""
    name = body.config._attn_implementation

    def run(*args: Any) -> Any:
        with _attention_named(body, name):
            return function(*args)

    return checkpoint(run, *inputs, use_reentrant=False)


@contextmanager
def _attention_named(body: Any, name: str) -> Iterator[None]:
    before = body.config._attn_implementation
    body.config._attn_implementation = name
    try:
        yield
    finally:
        body.config._attn_implementation = before
