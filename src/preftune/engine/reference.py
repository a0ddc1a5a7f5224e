"""Log-probs of the frozen reference: computed once, kept on disk, the same for every later run."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.engine.core import Core
from preftune.engine.layout import HasSequences
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.modes import evaluating
from preftune.files import atomic_folder, disk_trouble_named, sha256_of
from preftune.progress import progress

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

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
    found: list[Floats] = []  # one per batch: one per response would weigh more
    row_of: list[int] = []  # of each response, as they were computed
    counts: list[int] = []  # own tokens of each response
    with evaluating(core.model), progress("reference log-probs", len(rows)) as advance:
        for numbers in batches:
            sequences = [rows[number].sequences for number in numbers]
            with torch.set_grad_enabled(bool(core.compiled.forwards)):
                scored = core.token_logprobs(sequences)
            found.append(scored.logprobs.detach()[scored.own].float().cpu().numpy())
            counts += scored.lengths().tolist()
            row_of += [n for n, row in zip(numbers, sequences, strict=True) for _ in row]
            advance(len(numbers))
    return _in_order(found, np.array(row_of, dtype=np.int64), np.array(counts, dtype=np.int64))


def _in_order(found: Sequence[Floats], row_of: Ints, counts: Ints) -> Reference:
    """Return log-probs, computed in any order of rows, row after row."""
    flat = np.concatenate([np.zeros(0, dtype=np.float32), *found])
    starts = np.concatenate([[0], counts.cumsum()])
    order = np.argsort(row_of, kind="stable")
    values, ends = np.empty_like(flat), np.concatenate([[0], counts[order].cumsum()])
    for begin, response in zip(ends.tolist(), order.tolist(), strict=False):
        count = counts[response]
        values[begin : begin + count] = flat[starts[response] : starts[response] + count]
    first = np.concatenate([[0], np.bincount(row_of).cumsum()]) if len(row_of) else np.zeros(1)
    return Reference(
        logprobs=torch.from_numpy(values),
        ends=torch.from_numpy(ends.astype(np.int64)),
        first=torch.from_numpy(first.astype(np.int64)),
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


def cache_key(tokens: str, *parts: str) -> str:
    """Return a name for the log-probs of rows.

    Args:
        tokens: a hash over all their token ids, such as `digest_of`.
        parts: what else the last bit depends on.
    """
    return hashlib.sha256("\0".join((FORMAT, tokens, *parts)).encode()).hexdigest()[:32]


def digest_of(rows: Iterable[HasSequences]) -> str:
    """Return a SHA-256 over all token ids of these rows and which of them are own."""
    digest = hashlib.sha256()
    for row in rows:
        for sequence in row.sequences:
            digest.update(np.asarray(sequence.ids, dtype=np.int32).tobytes())
            digest.update(np.packbits(np.asarray(sequence.own, dtype=bool)).tobytes())
            digest.update(b"|")
        digest.update(b"\n")
    return digest.hexdigest()


def _read(folder: Path, key: str) -> Reference | None:
    try:
        if (folder / "key").read_text() != key:
            return None
        if (folder / "sha256").read_text() != sha256_of(folder / FILE):
            return None
        return Reference(**load_file(folder / FILE))
    except (OSError, SafetensorError, TypeError):
        return None
