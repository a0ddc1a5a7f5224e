"""A checkpoint is whole or absent; what is damaged or foreign is never loaded (R4, R5, T16)."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.engine.checkpoint import (
    MANIFEST,
    Checkpoint,
    newest_checkpoint,
    read_manifest,
    save_checkpoint,
    verify,
    write_manifest,
)
from preftune.engine.installation import Key
from preftune.errors import CheckpointError, HealthError

ORIGIN = {"data": "d0", "model": "m0", "settings": "s0"}
TENSORS = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.5, -2.0])},
    "optimizer": {"weight/step": torch.tensor(7.0)},
    "extra": {},
}


def save(
    root: Path, *steps: int, tensors: Mapping[str, Mapping[str, Tensor]] = TENSORS
) -> list[Path]:
    return [
        save_checkpoint(root, step=step, tensors=tensors, state={"note": "kept"}, origin=ORIGIN)
        for step in steps
    ]


def newest(root: Path) -> Checkpoint:
    checkpoint, notes = newest_checkpoint(root, origin=ORIGIN)
    assert checkpoint is not None
    assert notes == []
    return checkpoint


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 5)
    found = newest(tmp_path)
    assert (found.step, found.state) == (5, {"note": "kept"})
    for group, named in TENSORS.items():
        back = found.tensors(group)
        assert back.keys() == named.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in named.items())


def test_each_group_is_a_safetensors_file_and_an_empty_one_is_none(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 5)
    names = {"MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert load_file(folder / "optimizer.safetensors")["weight/step"].item() == 7.0


def test_views_and_transposed_tensors_are_saved_by_value(tmp_path: Path) -> None:
    square = torch.arange(4.0).reshape(2, 2)
    save(tmp_path, 1, tensors={"extra": {"turned": square.T}})
    assert newest(tmp_path).tensors("extra")["turned"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


def test_manifest_says_what_the_checkpoint_was_made_by(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 5)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.step, manifest.origin) == (5, ORIGIN)
    assert manifest.environment["torch"] == str(torch.__version__)
    assert manifest.environment["threads"] == torch.get_num_threads()
    assert manifest.environment["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    size = (folder / "model.safetensors").stat().st_size
    assert manifest.files["model.safetensors"].bytes == size


def test_two_newest_are_kept_also_beyond_six_digits(tmp_path: Path) -> None:
    save(tmp_path, 3, 10, 999_999, 1_000_000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    assert newest(tmp_path).step == 1_000_000


def test_an_old_checkpoint_stays_until_two_newer_ones_look_whole(tmp_path: Path) -> None:
    _, second = save(tmp_path, 1, 2)
    (second / "model.safetensors").write_bytes(b"cut")
    save(tmp_path, 3)
    assert [verify(tmp_path / f"step-00000{i}") for i in (1, 3)] == [None, None]
    save(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none", origin=ORIGIN) == (None, [])


def test_a_temporary_folder_or_a_file_never_counts(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 1)
    folder.rename(tmp_path / ".step-000009.x.tmp")
    (tmp_path / "step-000008").write_bytes(b"a file")
    assert newest_checkpoint(tmp_path, origin=ORIGIN) == (None, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_named_and_nothing_is_written(
    tmp_path: Path, value: float
) -> None:
    save(tmp_path, 1)
    bad = {"optimizer": {"weight/exp_avg": torch.tensor([0.0, value])}}
    with pytest.raises(HealthError, match=r"weight/exp_avg of the optimizer .* after 2 steps"):
        save(tmp_path, 2, tensors=bad)
    assert newest(tmp_path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_numbers_that_are_not_finite_are_named_when_they_are_read(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 1)
    save_file({"good": torch.ones(2), "w": torch.tensor([torch.nan])}, folder / "model.safetensors")
    write_manifest(folder, step=1, origin=ORIGIN)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: w holds NaN"):
        newest(tmp_path).tensors("model")


@pytest.mark.parametrize("name", ["data", "model", "settings"])
def test_checkpoint_of_another_run_is_set_aside_and_says_why(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    other = ORIGIN | {name: "other"}
    checkpoint, notes = newest_checkpoint(tmp_path, origin=other)
    assert checkpoint is None
    assert f"made by another run: other {name}. Set aside" in notes[0]
    assert "no whole checkpoint is left. Starting again at step 0" in notes[1]


def test_a_folder_that_says_another_step_than_its_manifest_is_set_aside(tmp_path: Path) -> None:
    _, folder = save(tmp_path, 1, 2)
    folder.rename(tmp_path / "step-000900")
    checkpoint, notes = newest_checkpoint(tmp_path, origin=ORIGIN)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "manifest is of another step" in notes[0]


def test_a_file_beside_is_named_and_not_opened(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 1)
    (folder / "model.pt").symlink_to("/dev/full")  # a device: reading it never ends
    assert verify(folder) is None  # neither file nor folder, so nothing anybody would open
    (folder / "model.bin").write_bytes(b"pickle")
    before = (folder / "model.bin").stat().st_atime_ns
    assert verify(folder) == f"model.bin is not in {MANIFEST}"
    assert (folder / "model.bin").stat().st_atime_ns == before


def crafted(header: str, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


FLOATS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
ONE = json.dumps({"w": FLOATS})
HOSTILE = {
    "empty": b"",
    "header-beyond-memory": struct.pack("<Q", 1 << 62) + b"{}",
    "header-of-200-MB": struct.pack("<Q", 200_000_000) + b"{}",
    "not-json": crafted("x" * 16),
    "deep": crafted('{"w":' + "[" * 100_000),
    "overlap": crafted(json.dumps({"w": FLOATS, "v": FLOATS})),
    "hole": crafted(json.dumps({"w": FLOATS | {"shape": [2], "data_offsets": [8, 16]}})),
    "data-cut": crafted(ONE, bytes(15)),
    "data-longer": crafted(ONE, bytes(17)),
    "negative-shape": crafted(json.dumps({"w": FLOATS | {"shape": [-4]}})),
    "shape-overflows": crafted(json.dumps({"w": FLOATS | {"shape": [1 << 62, 4]}})),
    "unknown-type": crafted(json.dumps({"w": FLOATS | {"dtype": "PICKLE"}})),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_t16_a_hostile_file_with_a_right_manifest_is_one_clear_error(
    tmp_path: Path, name: str
) -> None:
    (folder,) = save(tmp_path, 1)
    (folder / "model.safetensors").write_bytes(HOSTILE[name])
    write_manifest(folder, step=1, origin=ORIGIN)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .* Delete this checkpoint"):
        newest(tmp_path).tensors("model")


HOSTILE_MANIFESTS = {
    "empty": b"",
    "a-list": b"[]",
    "deep": b'{"files":' + b"[" * 100_000,
    "not-utf-8": b'{"files": {"\xff": 1}}',
    "no-hash": b'{"files": {}}',
    "up-the-tree": b'{"files": {"../../x": {"bytes": 1, "sha256": "0"}}, "sha256": "0"}',
}


@pytest.mark.parametrize("name", list(HOSTILE_MANIFESTS))
def test_t16_a_hostile_manifest_is_no_manifest(tmp_path: Path, name: str) -> None:
    (folder,) = save(tmp_path, 1)
    (folder / MANIFEST).write_bytes(HOSTILE_MANIFESTS[name])
    assert verify(folder) == f"no readable {MANIFEST}"


def test_manifest_names_outside_the_folder_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"")
    (folder,) = save(tmp_path / "root", 1)
    manifest = read_manifest(folder)
    assert manifest is not None
    entry = manifest.files.pop("state.json")
    manifest.files["../../outside"] = entry
    raw = json.loads(manifest.encoded()) | {"sha256": manifest.digest()}
    (folder / MANIFEST).write_text(json.dumps(raw, indent=2) + "\n")
    assert verify(folder) == "../../outside is missing"


OURS, THEIRS = Key(secret=bytes(32)), Key(secret=bytes(range(32)))


def sealed(root: Path, step: int, key: Key | None) -> Path:
    return save_checkpoint(root, step=step, tensors=TENSORS, state={}, origin=ORIGIN, key=key)


def test_a_checkpoint_with_our_seal_is_taken(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 1, OURS)
    checkpoint, notes = newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.key, len(manifest.seal)) == (OURS.name, 64)
    assert checkpoint is not None
    assert notes == []


def tampered(folder: Path, key: Key) -> None:
    """Change a weight and put right every hash, as one can who has no key."""
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"bias": tensors["bias"] + 1}, folder / "model.safetensors")
    manifest = read_manifest(folder)
    assert manifest is not None
    write_manifest(folder, step=manifest.step, origin=manifest.origin)
    forged = read_manifest(folder)
    assert forged is not None
    forged = replace(forged, key=key.name, seal=manifest.seal)
    forged = replace(forged, sha256=forged.digest())
    (folder / MANIFEST).write_bytes(forged.encoded())


def test_a_wrong_seal_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    sealed(tmp_path, 1, OURS)
    folder = sealed(tmp_path, 2, OURS)
    tampered(folder, OURS)
    assert verify(folder) is None  # the hashes alone do not see it
    checkpoint, notes = newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "MANIFEST.json was changed after it was sealed. Set aside" in notes[0]
    assert (tmp_path / "step-000002.corrupt").is_dir()


@pytest.mark.parametrize("trusted", [False, True], ids=["distrusted", "trusted"])
def test_a_wrong_seal_of_ours_is_never_trusted(tmp_path: Path, trusted: bool) -> None:
    tampered(sealed(tmp_path, 1, OURS), OURS)
    checkpoint, _ = newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS, trust_foreign=trusted)
    assert checkpoint is None


@pytest.mark.parametrize(
    ("key", "said"),
    [(THEIRS, f"sealed by another installation (key {THEIRS.name})"), (None, "has no seal")],
    ids=["foreign", "none"],
)
def test_a_foreign_checkpoint_is_refused_unless_it_is_trusted(
    tmp_path: Path, key: Key | None, said: str
) -> None:
    folder = sealed(tmp_path, 1, key)
    with pytest.raises(CheckpointError, match=rf"{re.escape(said)}\. Use --trust-foreign"):
        newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS)
    assert folder.is_dir()  # left where it is
    checkpoint, notes = newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS, trust_foreign=True)
    assert checkpoint is not None
    assert notes == []


def test_a_damaged_foreign_checkpoint_is_damaged_first(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 1, THEIRS)
    (folder / "state.json").write_bytes(b"{}  ")
    checkpoint, notes = newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS)
    assert checkpoint is None
    assert "state.json" in notes[0]


def test_a_hostile_name_of_a_key_is_not_shown(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 1, THEIRS)
    manifest = read_manifest(folder)
    assert manifest is not None
    bad = replace(manifest, key="\x1b[2J trust me")
    (folder / MANIFEST).write_bytes(replace(bad, sha256=bad.digest()).encoded())
    with pytest.raises(CheckpointError) as refused:
        newest_checkpoint(tmp_path, origin=ORIGIN, key=OURS)
    assert "\x1b" not in str(refused.value)
