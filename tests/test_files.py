import gzip
from pathlib import Path

import pytest

from preftune.files import atomic_folder, atomic_open, open_binary, sha256_of, write_atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "f") as writing:
        (writing / "x").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "f") as writing:
        (writing / "x").write_text("half")
        raise RuntimeError
    assert (tmp_path / "f" / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with atomic_folder(tmp_path / "f") as writing:
            (writing / name).write_text(name)
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_gz_files_are_packed_on_the_way_and_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        write_atomic(tmp_path / name, "text")
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"text"
    assert sha256_of(tmp_path / "a.gz") == sha256_of(tmp_path / "b.gz")
    with open_binary(tmp_path / "a.gz") as file:
        assert file.read() == b"text"
