"""Checkpoints that are whole or absent: written aside, fsynced, renamed, verified by a manifest.

A checkpoint is a folder `step-000123/` with the trained tensors, the optimiser's tensors, a small
state and `MANIFEST.json`, which holds the size and SHA-256 of every file. Readers trust the
manifest, never the name of a folder: a flipped bit, a cut or a missing file is found before the
first step, the folder is set aside as `.corrupt`, and the one before it is used.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preftune.engine.optimizer import load_optimizer_tensors, optimizer_tensors, trainable
from preftune.errors import CheckpointError
from preftune.files import atomic_folder, read_json, sha256_of, write_json

MANIFEST = "MANIFEST.json"
KEEP = 2  # verified checkpoints that stay on disk
STEP_NAME = re.compile(r"step-\d{6,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A verified checkpoint: `step` optimiser steps are done."""

    folder: Path
    step: int
    state: dict[str, Any]


def save_checkpoint(
    root: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: Any,
    state: Mapping[str, Any],
) -> Path:
    """Publish `root/step-…`, read it back, then delete all but the newest two."""
    folder = root / f"step-{step:06d}"
    with atomic_folder(folder) as writing:
        weights = {name: p.detach().contiguous() for name, p in trainable(model).items()}
        save_file(weights, writing / "model.safetensors")
        save_file(optimizer_tensors(model, optimizer), writing / "optimizer.safetensors")
        write_json(writing / "state.json", {"step": step, **state})
        write_json(writing / MANIFEST, manifest_of(writing))
    problem = verify(folder)
    if problem:
        raise CheckpointError(f"{folder}: {problem} right after writing. Check the disk.")
    for old in _step_folders(root)[:-KEEP]:
        shutil.rmtree(old)
    return folder


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a line for each bad one set aside."""
    notes: list[str] = []
    for folder in reversed(_step_folders(root)):
        problem = verify(folder)
        if problem is None:
            state = read_json(folder / "state.json")
            return Checkpoint(folder=folder, step=state["step"], state=state), notes
        aside = folder.with_name(f"{folder.name}.corrupt")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        notes.append(f"{folder}: {problem}. Set aside as {aside.name}, using the one before it.")
    return None, notes


def restore(checkpoint: Checkpoint, *, model: nn.Module, optimizer: Any) -> None:
    """Put the checkpoint's tensors into the model and the optimiser.

    Raises:
        CheckpointError: the tensors don't belong to this model.
    """
    weights = _tensors(checkpoint.folder / "model.safetensors")
    parameters = trainable(model)
    shapes = {name: p.shape for name, p in parameters.items()}
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        raise CheckpointError(
            f"{checkpoint.folder}: made for another model. Start the run in a new folder."
        )
    for name, tensor in weights.items():
        parameters[name].data.copy_(tensor)
    load_optimizer_tensors(model, optimizer, _tensors(checkpoint.folder / "optimizer.safetensors"))


def manifest_of(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return size in bytes and SHA-256 of every file below a folder, by relative name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in files
    }


def verify(folder: Path) -> str | None:
    """Return what is wrong with a folder against its manifest, None when every byte is right."""
    try:
        promised = read_json(folder / MANIFEST)
    except (OSError, msgspec.DecodeError):
        return f"no readable {MANIFEST}"
    found = manifest_of(folder)
    for name in sorted(promised.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in promised:
            return f"{name} is not in {MANIFEST}"
        if promised[name] != found[name]:
            return f"{name} differs from its SHA-256 in {MANIFEST}"
    return None


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}. Delete this checkpoint.") from error
    return tensors


def _step_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and STEP_NAME.fullmatch(p.name))
