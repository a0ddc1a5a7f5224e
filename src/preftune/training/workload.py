"""A run as memory sees it, and how many tokens go into one forward when nobody says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from preftune.engine.batches import Order
from preftune.engine.core import body_of
from preftune.engine.layout import HasSequences, stream_length
from preftune.engine.plan import Size, Workload, fitting_micro_tokens, size_of
from preftune.engine.precision import resolve
from preftune.engine.settings import MOST_TOKENS
from preftune.models.adapters import add_lora
from preftune.models.heads import RewardModel
from preftune.models.load import adapter_base, quiet, read_config
from preftune.models.tokens import TokenSequence
from preftune.training.method_settings import ListwiseSettings, RewardSettings, UnpairedSettings
from preftune.training.rows import TokenRows
from preftune.training.settings import DirectSettings, SftSettings
from preftune.training.token_cache import Array

AnySettings = SftSettings | DirectSettings | RewardSettings | UnpairedSettings | ListwiseSettings
S = TypeVar("S", bound=AnySettings)

SMALL_STEP = 1024  # tokens; cutting up a smaller step saves nothing beside the weights
COARSE = (1.0, 1.5)  # of a power of two: free memory is rounded down to one of these


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSizes:
    """Tokens of N rows."""

    stream: Array  # int64 `[N]`: the prompt once, every response
    padded: Array  # int64 `[N]`: every sequence as long as the longest of its row
    own: int  # of the model's own, all rows together
    apart: int  # all rows together, each prompt again for every response
    longest: int  # of one sequence

    @classmethod
    def of(cls, rows: Sequence[HasSequences]) -> "RowSizes":
        """Return the sizes of token rows; of those in flat arrays without making a row."""
        if not isinstance(rows, TokenRows):
            return cls.of_sequences([row.sequences for row in rows])
        lengths = rows.lengths
        return cls(
            stream=rows.stream_lengths,
            padded=lengths.max(axis=1) * lengths.shape[1],
            own=int(rows.facts["own"].sum(dtype=np.int64)),
            apart=int(lengths.sum()),
            longest=int(lengths.max()),
        )

    @classmethod
    def of_sequences(cls, rows: Sequence[Sequence[TokenSequence]]) -> "RowSizes":
        """Return the sizes of rows of sequences."""
        return cls(
            stream=np.array([stream_length(row) for row in rows]),
            padded=np.array([len(row) * max(map(len, row)) for row in rows]),
            own=sum(sequence.own_length for row in rows for sequence in row),
            apart=sum(len(sequence) for row in rows for sequence in row),
            longest=max(len(sequence) for row in rows for sequence in row),
        )

    def of_model(self, folder_or_id: str) -> Array:
        """Return the tokens of each row in a model: an encoder shares no prompts."""
        return self.padded if read_config(folder_or_id).kind == "encoder" else self.stream


def settled(s: S, sizes: RowSizes, free: int) -> S:
    """Return the settings with a number in place of `micro_tokens: auto`.

    It is a power of two of at most 16384: the largest whose peak, by the estimate of `plan`, stays
    below 80 % of the memory, which is rounded down to a coarse step (16, 24, 32, 48 GB ...), so
    that a little more or less free memory chooses the same.

    Args:
        s: settings of a run.
        sizes: its rows.
        free: bytes that the run can use.
    """
    if s.engine.micro_tokens != "auto":
        return s
    lengths = sizes.of_model(s.model)
    step = int(np.sort(lengths)[-s.optimizer.batch_size :].sum())  # no step is larger
    tokens = MOST_TOKENS
    if step > SMALL_STEP:
        work = _workload(s, sizes, step)
        tokens = fitting_micro_tokens(work.peak, coarse(free), longest_row=work.longest_row)
    return replace(s, engine=replace(s.engine, micro_tokens=tokens))


def coarse(size: int) -> int:
    """Return the largest power of two, or one and a half of one, that is not above the size."""
    power = 1 << size.bit_length() >> 1
    return max(int(share * power) for share in COARSE if int(share * power) <= size)


def workload(s: AnySettings, sizes: RowSizes, order: Order) -> Workload:
    """Return the run as memory sees it."""
    lengths = sizes.of_model(s.model)
    return _workload(s, sizes, max(int(lengths[numbers].sum()) for numbers in order.batches()))


def _workload(s: AnySettings, sizes: RowSizes, step_tokens: int) -> Workload:
    size, dtype = size_and_dtype(s)
    lengths, copies = sizes.of_model(s.model), 0
    if not isinstance(s, SftSettings | RewardSettings) and s.lora.lora_rank == 0:
        copies += s.probe.probe_every > 0
    if isinstance(s, DirectSettings) and s.lora.lora_rank == 0:
        copies += s.moving.ref_every > 0
    return Workload(
        size=size,
        dtype=dtype,
        step_tokens=step_tokens,
        longest_row=int(lengths.max()),
        own_frac=sizes.own / int(lengths.sum()),
        recompute=s.engine.recompute and not isinstance(s, RewardSettings),
        chunked=s.engine.engine == "fast",
        copies=copies,
    )


def size_and_dtype(s: AnySettings) -> tuple[Size, torch.dtype]:
    """Return the size of the model that trains, and what it will compute in."""
    model, vocabulary = empty_model(s)
    dtype = resolve(s.engine.precision, model)
    model.to(dtype).eval()
    body = body_of(model.backbone if isinstance(model, RewardModel) else model)
    size = size_of(model, body, vocabulary=vocabulary)
    frozen = [m.weight for m in body.modules() if isinstance(m, nn.Linear)]
    packed = sum(weight.numel() for weight in frozen if not weight.requires_grad)
    return replace(size, packed=packed if s.lora.base_bits == 4 else 0), dtype


def empty_model(s: AnySettings) -> tuple[Any, int]:
    """Return the model that trains, without content, and how many tokens its head tells apart."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    about = read_config(s.model)
    reward = isinstance(s, RewardSettings)
    with torch.device("meta"), quiet():
        config = AutoConfig.from_pretrained(about.base or s.model)
        model = (AutoModel if reward else AutoModelForCausalLM).from_config(config)
        if adapter_base(s.model) is not None:
            from peft import PeftConfig, get_peft_model

            model = get_peft_model(model, PeftConfig.from_pretrained(s.model))
        if s.lora.lora_rank:
            model = add_lora(model, s.lora, seed=s.run.seed)
        if not reward:
            return model, int(config.get_text_config().vocab_size)
        head = nn.Linear(int(config.hidden_size), 1, bias=False)
        return RewardModel(model, head, kind=about.kind), 0
