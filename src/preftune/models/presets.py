"""Sizes of models made from nothing. Parameters = the figure here + vocabulary x width."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["decoder", "encoder"]

INIT_STD_AT_1 = 0.68
"""Std of fresh decoder weights times sqrt(width): .06 at width 128, where .02 learns far slower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One size: a Llama-type decoder with tied embeddings, or a BERT-type encoder."""

    kind: Kind
    width: int
    layers: int
    heads: int
    feed_forward: int
    max_length: int  # tokens

    @property
    def body_parameters(self) -> int:
        """Parameters that do not depend on the vocabulary."""
        d, f = self.width, self.feed_forward
        if self.kind == "decoder":
            return self.layers * (4 * d * d + 3 * d * f + 2 * d) + d
        layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
        return self.layers * layer + (self.max_length + 2) * d + 2 * d


PRESETS = {
    "tiny": Preset(kind="decoder", width=128, layers=3, heads=4, feed_forward=320, max_length=1024),
    "small": Preset(
        kind="decoder", width=256, layers=6, heads=8, feed_forward=704, max_length=2048
    ),
    "medium": Preset(
        kind="decoder", width=512, layers=8, heads=8, feed_forward=1408, max_length=2048
    ),
    "encoder": Preset(
        kind="encoder", width=128, layers=3, heads=4, feed_forward=512, max_length=512
    ),
}


def model_config(preset: Preset, *, vocab_size: int, end_id: int, pad_id: int) -> Any:
    """Return the transformers config of a preset."""
    shared = {
        "vocab_size": vocab_size,
        "hidden_size": preset.width,
        "intermediate_size": preset.feed_forward,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "max_position_embeddings": preset.max_length,
        "pad_token_id": pad_id,
    }
    if preset.kind == "encoder":
        from transformers import BertConfig

        return BertConfig(**shared)
    from transformers import LlamaConfig

    return LlamaConfig(
        **shared,
        initializer_range=INIT_STD_AT_1 / preset.width**0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_id,
    )
