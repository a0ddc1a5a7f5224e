"""Layers compiled by torch.compile, for the passes of the core alone.

What pays is joining the elementwise passes between the products; the attention stays as it is. The
first steps wait for a C++ compiler, for about half a minute; its results are kept between runs.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from preftune.engine.attention import NAME, packed_attention_forward
from preftune.errors import SettingsError


@dataclass(kw_only=True, slots=True)
class CompiledLayers:
    """The compiled forwards of a model's layers; other passes than the core's never see them."""

    forwards: dict[nn.Module, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Any) -> "CompiledLayers":
        """Return the compiled forwards; each is compiled when it first runs.

        Raises:
            SettingsError: no compiler, or the model's layers are not known as such.
        """
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise SettingsError("compile: needs a C++ compiler. Install g++, or leave it out.")
        layers = [m for m in body.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise SettingsError(f"compile: {type(body).__name__} has no layers that it knows.")
        AttentionInterface.register(NAME, torch.compiler.disable(packed_attention_forward))
        return cls(forwards={m: torch.compile(m.forward, dynamic=True) for m in layers})

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the layers run compiled inside the block."""
        for layer, forward in self.forwards.items():
            layer.forward = forward
        try:
            yield
        finally:
            for layer in self.forwards:
                del layer.forward
