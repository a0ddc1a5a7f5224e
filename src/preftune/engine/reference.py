"""Log-probs of the frozen reference: computed once before training, kept in the run folder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preftune.engine.logprobs import token_logprobs
from preftune.files import atomic_folder
from preftune.models.tokens import TokenSequence
from preftune.progress import progress


@torch.no_grad()
def reference_logps(
    model: nn.Module, groups: Sequence[Sequence[TokenSequence]], batches: Iterable[Sequence[int]]
) -> Float[Tensor, "N K"]:
    """Return the summed log-prob in nats of each of the K responses of each of the N rows.

    Args:
        model: the reference; with adapters, the policy with its adapter off.
        groups: the K sequences of each row.
        batches: row numbers to forward together. The first epoch's own micro-batches make policy
            and reference equal to the last bit at step 0.
    """
    found = torch.full((len(groups), len(groups[0]) if groups else 0), torch.nan)
    model.eval()
    with progress("reference log-probs", len(groups)) as advance:
        for rows in batches:
            sequences = [sequence for row in rows for sequence in groups[row]]
            sums = token_logprobs(model, sequences).sums()
            found[list(rows)] = sums.reshape(len(rows), -1).cpu()
            advance(len(rows))
    return found


def cached(path: Path, key: str, compute: Callable[[], Tensor]) -> Float[Tensor, "N K"]:
    """Return what `compute` gives, from `path` when it was computed before under the same key."""
    file = path / "logps.safetensors"
    if file.exists() and (path / "key").read_text() == key:
        kept: Tensor = load_file(file)["logps"]
        return kept
    logps = compute()
    with atomic_folder(path) as writing:
        save_file({"logps": logps}, writing / file.name)
        (writing / "key").write_text(key)
    return logps
