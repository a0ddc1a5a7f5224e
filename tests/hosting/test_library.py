"""Which models are in memory: what is asked for stays, what is published anew is loaded anew."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from preftune.engine.checkpoint import MANIFEST, write_manifest
from preftune.files import sha256_of
from preftune.hosting.library import Library
from preftune.hosting.settings import GIB, HostingSettings

Small = Callable[[float], Library]


@pytest.fixture
def small(model_folder: Path) -> Small:
    """Make a library with memory for so many bases."""
    one = sum(file.stat().st_size for file in model_folder.glob("*.safetensors"))

    def make(bases: float) -> Library:
        settings = HostingSettings(memory_gib=bases * one / GIB)
        return Library(settings, in_use=set)

    return make


@pytest.fixture
def other(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "other"))


def test_an_adapter_does_not_push_out_the_base_it_is_for(
    small: Small, model_folder: Path, adapter_folders: list[Path], other: Path
) -> None:
    library = small(2.02)  # the adapter fits beside one base only
    first = library.serve(str(model_folder))
    library.serve(str(other))
    adapted = library.serve(str(adapter_folders[0]))
    assert adapted.base is first.base
    assert [base.folder for base in library.bases] == [model_folder]
    assert small(1.0).serve(str(adapter_folders[0])).adapter is not None


def test_a_reward_model_does_not_push_out_whom_it_scores_for(
    small: Small, model_folder: Path, adapter_folders: list[Path], reward_folder: Path
) -> None:
    library = small(1.2)
    served = library.serve(str(adapter_folders[0]))
    library.scorer(str(reward_folder), keep=served)
    assert [base.folder for base in library.bases] == [model_folder]
    assert library.serve(str(adapter_folders[0])) is served
    assert library.reward_models == [reward_folder]


def test_a_reward_model_in_use_stays(model_folder: Path, reward_folder: Path, other: Path) -> None:
    tight = HostingSettings(memory_gib=1e-9)
    library = Library(tight, in_use=lambda: {reward_folder})
    library.scorer(str(reward_folder))
    library.serve(str(model_folder))
    library.serve(str(other))
    assert library.reward_models == [reward_folder]
    assert [base.folder for base in library.bases] == [other]


def sealed(source: Path, folder: Path) -> str:
    """Publish an adapter in a folder, in the place of what is there; return its hash."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    write_manifest(folder)
    return sha256_of(folder / MANIFEST)


def test_an_adapter_published_anew_is_loaded_anew(
    small: Small, adapter_folders: list[Path], tmp_path: Path
) -> None:
    library, folder = small(9.0), tmp_path / "adapter"
    found = [
        library.serve(str(folder), manifest_hash=sealed(source, folder))
        for source in adapter_folders
    ]
    assert found[0].base is found[1].base
    assert found[0].adapter is not found[1].adapter
    assert list(found[1].base.adapters.values()) == [found[1].adapter]


def test_a_base_published_anew_is_loaded_anew(
    small: Small, model_folder: Path, other: Path
) -> None:
    library = small(9.0)
    before = library.serve(str(other), manifest_hash=sealed(model_folder, other))
    (other / "note").write_text("changed")
    write_manifest(other)
    after = library.serve(str(other), manifest_hash=sha256_of(other / MANIFEST))
    assert after.base is not before.base
    assert library.bases == [after.base]
