from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.responses.journal import Journal


def test_lines_are_found_by_the_next_to_open_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "deep" / "j") as journal:
        assert (journal.found, journal.torn) == ([], False)
        journal.note(b"one\n")
        journal.add(b"two\n")
    with Journal(tmp_path / "deep" / "j") as journal:
        assert (journal.found, journal.torn) == ([b"one\n", b"two\n"], False)


@given(st.integers(0, 12))
def test_file_cut_at_any_byte_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j"
    path.write_bytes(b"one\ntwo\nsix\n"[:cut])
    with Journal(path) as journal:
        assert journal.found == [b"one\n", b"two\n", b"six\n"][: cut // 4]
        assert journal.torn == (cut % 4 > 0)
        journal.add(b"new\n")
    assert path.read_bytes() == b"one\ntwo\nsix\n"[: cut // 4 * 4] + b"new\n"


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "j") as journal,
        pytest.raises(DataError, match="another process is writing it"),
    ):
        journal.add(b"one\n")
        Journal(tmp_path / "j")


def test_empty_journal_leaves_no_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"):
        pass
    with Journal(tmp_path / "k") as journal:
        journal.add(b"one\n")
        journal.delete()
    assert list(tmp_path.iterdir()) == []
