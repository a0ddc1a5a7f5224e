"""Checkpoints that are whole or absent: written aside, fsynced, renamed, verified by a manifest.

A checkpoint is a folder `step-000123/` with one safetensors file per group of tensors, a small
state and `MANIFEST.json`. The manifest holds the size and SHA-256 of every file, what the
checkpoint was made by, and a SHA-256 over itself. Readers trust the manifest, never the name of a
folder: a flipped bit, a cut, a missing or an additional file is found before the first step, the
folder is set aside as `.corrupt`, and the one before it is used.

The hashes find accidents. Malice is found by the seal of a manifest: an HMAC with the key of the
installation that wrote it (`installation.py`). A wrong seal makes a checkpoint a bad one; one that
another installation sealed, or nobody, stops the run unless the user trusts it. No folder can run
code, since tensors are safetensors and all else is JSON.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.engine import determinism
from preftune.engine.installation import Key
from preftune.errors import CheckpointError, HealthError
from preftune.files import atomic_folder, delete_folder, read_json, sha256_of

MANIFEST = "MANIFEST.json"
KEEP = 2  # verified checkpoints that stay on disk
STEP_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """What a manifest promises of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a folder holds, what made it, and a hash over both."""

    files: dict[str, FileEntry]
    step: int | None = None  # optimiser steps done; None: not a checkpoint
    origin: dict[str, str] = field(default_factory=dict)  # hashes of settings, data and model
    environment: dict[str, str | int] = field(default_factory=dict)
    key: str = ""  # name of the key that sealed it; empty: nobody did
    seal: str = ""  # HMAC-SHA256 with that key over the fields above
    sha256: str = ""  # of the fields above

    def sealed(self, key: Key) -> "Manifest":
        """Return the manifest with the seal of a key, its hash not made yet."""
        named = replace(self, key=key.name, seal="", sha256="")
        return replace(named, seal=key.seal(named.encoded()))

    def sealed_by(self, key: Key) -> bool:
        """Whether the key made the seal, and nothing was changed since."""
        return key.fits(self.seal, replace(self, seal="", sha256="").encoded())

    def digest(self) -> str:
        """Return the SHA-256 of all fields but the last."""
        return hashlib.sha256(replace(self, sha256="").encoded()).hexdigest()

    def encoded(self) -> bytes:
        """Return the one way to write this manifest."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A verified checkpoint: `step` optimiser steps are done."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Return the tensors of one group; a group that was empty has none.

        Raises:
            CheckpointError: not a safetensors file, or a tensor holds NaN or infinity.
        """
        path = self.folder / f"{group}.safetensors"
        if not path.exists():
            return {}
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: {error}. Delete this checkpoint.") from error
        bad = first_not_finite(tensors)
        if bad:
            raise CheckpointError(f"{path}: {bad} holds NaN or infinity. Delete this checkpoint.")
        return tensors


def save_checkpoint(
    root: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    origin: Mapping[str, str],
    key: Key | None = None,
) -> Path:
    """Publish `root/step-…`, read it back, then delete all but the newest two whole ones.

    Args:
        root: the folder of all checkpoints of a run.
        step: optimiser steps done.
        tensors: named tensors by group; each group with any becomes `group.safetensors`.
        state: small JSON values to find again on resume.
        origin: hashes of what the run is made from; compared on resume.
        key: seals the manifest; None leaves it without a seal.

    Raises:
        HealthError: a tensor holds NaN or infinity; nothing is written.
        CheckpointError: what was written reads back otherwise.
    """
    folder = root / f"step-{step:06d}"
    for group, named in tensors.items():
        bad = first_not_finite(named)
        if bad:
            raise HealthError(
                f"{root}: {bad} of the {group} holds NaN or infinity after {step} steps; the "
                "checkpoints before are kept. Lower --lr."
            )
    with atomic_folder(folder) as writing:
        for group, named in tensors.items():
            if named:
                whole = {name: tensor.detach().contiguous() for name, tensor in named.items()}
                save_file(whole, writing / f"{group}.safetensors")
        (writing / "state.json").write_bytes(msgspec.json.encode(state) + b"\n")
        write_manifest(writing, step=step, origin=origin, key=key)
    problem = verify(folder)
    if problem:
        raise CheckpointError(f"{folder}: {problem} right after writing. Check the disk.")
    _delete_old(root)
    return folder


def newest_checkpoint(
    root: Path,
    *,
    origin: Mapping[str, str],
    key: Key | None = None,
    trust_foreign: bool = False,
) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a line for each bad one set aside.

    Args:
        root: the folder of all checkpoints of a run.
        origin: hashes of what the run is made from; a checkpoint with others counts as bad.
        key: of this installation; None asks for no seal.
        trust_foreign: take a checkpoint that another installation sealed, or nobody.

    Raises:
        CheckpointError: a checkpoint is whole, but not sealed by this installation.
    """
    notes: list[str] = []
    for folder in reversed(_step_folders(root)):
        problem = verify(folder) or _other_run(folder, origin)
        if problem is None and key is not None:
            problem = _seal_problem(folder, key, trust_foreign=trust_foreign)
        if problem is None:
            state = read_json(folder / "state.json")
            return Checkpoint(folder=folder, step=_step_of(folder), state=state), notes
        aside = folder.with_name(f"{folder.name}.corrupt")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        notes.append(f"{folder}: {problem}. Set aside as {aside.name}.")
    if notes:
        notes.append(f"{root}: no whole checkpoint is left. Starting again at step 0.")
    return None, notes


def write_manifest(
    folder: Path,
    *,
    step: int | None = None,
    origin: Mapping[str, str] | None = None,
    key: Key | None = None,
) -> None:
    """Write the manifest of all files in a folder; it is the last file written there.

    `files.atomic_folder` around it makes the folder durable, whole or absent.
    """
    files = {
        name: FileEntry(bytes=file.stat().st_size, sha256=sha256_of(file))
        for name, file in _files(folder).items()
    }
    manifest = Manifest(
        files=files,
        step=step,
        origin=dict(origin or {}),
        environment=determinism.environment(),
    )
    manifest = manifest.sealed(key) if key else manifest
    (folder / MANIFEST).write_bytes(replace(manifest, sha256=manifest.digest()).encoded())


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None when there is none or a bit of it is wrong."""
    try:
        raw = (folder / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    right = raw == manifest.encoded() and manifest.sha256 == manifest.digest()
    return manifest if right else None


def verify(folder: Path) -> str | None:
    """Return what is wrong with a folder against its manifest, None when every byte is right."""
    manifest = read_manifest(folder)
    problem = _listing_problem(folder, manifest)
    if problem or manifest is None:
        return problem
    for name, entry in sorted(manifest.files.items()):
        if sha256_of(folder / name) != entry.sha256:
            return f"{name} differs from its SHA-256 in {MANIFEST}"
    return None


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, None when there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


def _listing_problem(folder: Path, manifest: Manifest | None) -> str | None:
    """Return what is wrong with names and sizes; no file but the manifest is opened."""
    if manifest is None:
        return f"no readable {MANIFEST}"
    found = _files(folder)
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in manifest.files:
            return f"{name} is not in {MANIFEST}"
        if manifest.files[name].bytes != found[name].stat().st_size:
            return f"{name} has not the size {MANIFEST} says"
    return None


def _other_run(folder: Path, origin: Mapping[str, str]) -> str | None:
    manifest = read_manifest(folder)
    if manifest is None or manifest.step != _step_of(folder):
        return "its manifest is of another step"
    names = sorted(manifest.origin.keys() | origin.keys())
    other = [name for name in names if manifest.origin.get(name) != origin.get(name)]
    return f"made by another run: other {', '.join(other)}" if other else None


def _seal_problem(folder: Path, key: Key, *, trust_foreign: bool) -> str | None:
    """Return why a seal is wrong; None when it is right, or foreign and trusted.

    Raises:
        CheckpointError: it is foreign and nobody trusts it.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.key == key.name:
        right = manifest is not None and manifest.sealed_by(key)
        return None if right else f"{MANIFEST} was changed after it was sealed"
    if trust_foreign:
        return None
    name = "".join(c for c in manifest.key if c in "0123456789abcdef")[:16]
    by = f"was sealed by another installation (key {name})" if name else "has no seal"
    raise CheckpointError(
        f"{folder}: {by}. Use --trust-foreign if you know who wrote it, or a new --out."
    )


def _delete_old(root: Path) -> None:
    """Delete what is older than the newest two that look whole."""
    folders = _step_folders(root)
    whole = [f for f in folders if _listing_problem(f, read_manifest(f)) is None]
    for old in folders[: folders.index(whole[-KEEP])] if len(whole) >= KEEP else []:
        delete_folder(old)


def _files(folder: Path) -> dict[str, Path]:
    """Return every file below a folder but the manifest, by relative name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {str(path.relative_to(folder)): path for path in files}


def _step_of(folder: Path) -> int:
    found = STEP_NAME.fullmatch(folder.name)
    return int(found[1]) if found else -1


def _step_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.is_dir() and _step_of(p) >= 0), key=_step_of)
