"""Log-probs of the frozen reference: computed once, kept on disk, the same for every later run."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.engine.core import Core
from preftune.engine.layout import HasSequences
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.modes import evaluating
from preftune.files import atomic_folder, disk_trouble_named, sha256_of
from preftune.progress import progress

FILE = "logprobs.safetensors"
FORMAT = "1"  # raise it when the engine computes anything in another order


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The log-prob of every own token of every response of N rows, as one flat list."""

    logprobs: Tensor  # fp32 `[all own tokens]`, row after row, response after response
    ends: Tensor  # int64 `[responses + 1]`: where each response begins, and the end
    first: Tensor  # int64 `[N + 1]`: the first response of each row, and their number

    def of(self, rows: Sequence[int]) -> TokenLogprobs:
        """Return the log-probs of all responses of these rows, in their order."""
        numbers = [
            number
            for row in rows
            for number in range(int(self.first[row]), int(self.first[row + 1]))
        ]
        parts = [self.logprobs[self.ends[n] : self.ends[n + 1]] for n in numbers]
        lengths = torch.tensor([len(part) for part in parts])
        own = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        values = torch.zeros(own.shape).masked_scatter(own, torch.cat(parts))
        return TokenLogprobs(logprobs=values, own=own)


def reference_logprobs(
    core: Core, rows: Sequence[HasSequences], batches: Iterable[Sequence[int]]
) -> Reference:
    """Return the log-probs of all rows under the model as it is.

    Args:
        core: the reference; with adapters, the policy with its adapter off.
        rows: all rows.
        batches: row numbers to forward together, every row once. The first epoch's own
            micro-batches make policy and reference equal to the last bit at step 0.

    Compiled layers round differently with and without a gradient, so they get one here too.
    """
    found: dict[int, list[Tensor]] = {}
    with evaluating(core.model), progress("reference log-probs", len(rows)) as advance:
        for numbers in batches:
            sequences = [rows[number].sequences for number in numbers]
            with torch.set_grad_enabled(bool(core.compiled.forwards)):
                scored = core.token_logprobs(sequences)
            responses = iter(
                zip(scored.logprobs.detach().cpu(), scored.lengths().tolist(), strict=True)
            )
            for number, row in zip(numbers, sequences, strict=True):
                found[number] = [
                    values[:length].clone()
                    for _, (values, length) in zip(row, responses, strict=False)
                ]
            advance(len(numbers))
    in_order = [part for number in range(len(rows)) for part in found[number]]
    counts = [len(found[number]) for number in range(len(rows))]
    return Reference(
        logprobs=torch.cat(in_order) if in_order else torch.empty(0),
        ends=torch.tensor([0, *(len(part) for part in in_order)]).cumsum(0),
        first=torch.tensor([0, *counts]).cumsum(0),
    )


def cached(folder: Path, key: str, compute: Callable[[], Reference]) -> Reference:
    """Return what `compute` gives, from the folder when it was computed before under the same key.

    A damaged file counts as none: it is computed again.
    """
    kept = _read(folder, key)
    if kept is not None:
        os.utime(folder)
        return kept
    reference = compute()
    with disk_trouble_named(folder), atomic_folder(folder) as writing:
        tensors = {
            "logprobs": reference.logprobs,
            "ends": reference.ends,
            "first": reference.first,
        }
        save_file(tensors, writing / FILE)
        (writing / "key").write_text(key)
        (writing / "sha256").write_text(sha256_of(writing / FILE))
    return reference


def cache_key(rows: Iterable[HasSequences], *parts: str) -> str:
    """Return a name for the log-probs of these rows: a hash over all token ids and `parts`."""
    digest = hashlib.sha256("\0".join((FORMAT, *parts)).encode())
    for row in rows:
        for sequence in row.sequences:
            digest.update(np.asarray(sequence.ids, dtype=np.int32).tobytes())
            digest.update(np.packbits(np.asarray(sequence.own, dtype=bool)).tobytes())
            digest.update(b"|")
        digest.update(b"\n")
    return digest.hexdigest()[:32]


def _read(folder: Path, key: str) -> Reference | None:
    try:
        if (folder / "key").read_text() != key:
            return None
        if (folder / "sha256").read_text() != sha256_of(folder / FILE):
            return None
        return Reference(**load_file(folder / FILE))
    except (OSError, SafetensorError, TypeError):
        return None
