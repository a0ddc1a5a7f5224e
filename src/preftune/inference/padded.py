"""Rows padded on the left, through a model's own attention and cache: right for every model."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from preftune.errors import ModelError

SPARE = 32  # positions that a cache is grown by at once


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types here
    """Keys and values of one layer with room behind them, so that a step writes in place."""

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the new positions and return all keys and values so far, `[B, heads, T, D]` each."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if start == 0:
            super().update(key_states, value_states, *args, **kwargs)
            return self.keys, self.values
        if self.room is None or end > self.room[0].shape[2]:
            self.room = _roomier(self.keys, end), _roomier(self.values, end)
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; an index given twice makes two rows."""
        super().batch_select_indices(indices)
        self.room = None


def _roomier(held: Tensor, positions: int) -> Tensor:
    """Return a copy with room for `positions` and `SPARE` more."""
    rows, heads, length, width = held.shape
    room = held.new_empty(rows, heads, positions + SPARE, width)
    room[:, :, :length] = held
    return room


def causal_model(model: Any) -> Any:
    """Return the transformers model itself; under PEFT its layers already hold the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_takes(model: Any) -> set[str]:
    """Return the names of what a model's own forward takes."""
    return set(inspect.signature(causal_model(model).forward).parameters)


class PaddedDecoder:
    """A model, its cache, and the rows still being written. Prompts are padded on the left."""

    def __init__(self, model: nn.Module, prompts: Sequence[tuple[int, ...]], pad_id: int) -> None:
        if getattr(model, "_is_stateful", False):
            raise ModelError(
                f"{type(model).__name__} keeps a recurrent state, which padding would spoil. "
                "Use a model with attention only."
            )
        self.model, self.pad_id = model, pad_id
        self.device = next(model.parameters()).device
        self.takes = forward_takes(model)
        self.prompts = list(dict.fromkeys(prompts))  # equal prompts are read once
        self.cache = DynamicCache(config=causal_model(model).config)
        self.cache.layers = [
            RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers
        ]
        place = {prompt: row for row, prompt in enumerate(self.prompts)}
        self.rows = torch.tensor([place[prompt] for prompt in prompts], device=self.device)

    def start(self) -> Float[Tensor, "B V"]:
        """Read the prompts and return the logits of the first new token."""
        longest = max(len(prompt) for prompt in self.prompts)
        padded = [(self.pad_id,) * (longest - len(prompt)) + prompt for prompt in self.prompts]
        lengths = torch.tensor([len(prompt) for prompt in self.prompts], device=self.device)
        columns = torch.arange(longest, device=self.device)
        self.mask = (columns >= longest - lengths[:, None]).long()
        self.padded = bool((lengths < longest).any())
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)
        logits = self._forward(torch.tensor(padded, device=self.device), positions)
        self.lengths, self.mask = lengths[self.rows], self.mask[self.rows]
        if len(self.rows) > len(self.prompts):
            self.cache.batch_select_indices(self.rows)
        return logits[self.rows]

    def step(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Add one token to each row and return the logits of the next."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(token), 1)], 1)
        logits = self._forward(token[:, None], self.lengths[:, None])
        self.lengths = self.lengths + 1
        return logits

    def keep(self, rows: Int[Tensor, " K"]) -> None:
        """Go on with these rows only."""
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]
        self.cache.batch_select_indices(rows)

    def _forward(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B V"]:
        """Return the logits after the last of these tokens."""
        extras = {"position_ids": positions, "logits_to_keep": 1}
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask if self.padded else None,
            past_key_values=self.cache,
            use_cache=True,
            **{name: value for name, value in extras.items() if name in self.takes},
        )
        logits: Tensor = out.logits
        return logits[:, -1].float()
