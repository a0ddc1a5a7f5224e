"""Tokens kept between runs: equal to fresh ones, never damaged, shared by processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from preftune.models.tokens import TokenSequence
from preftune.training.facts import Said
from preftune.training.token_cache import (
    FILES,
    HEADER,
    About,
    Make,
    TokenArrays,
    Writer,
    found,
    in_memory,
    keep,
)


def sequence(*ids: int, asked: int, own: int = 1) -> TokenSequence:
    flags = (False,) * (len(ids) - own) + (True,) * own
    return TokenSequence(prompt_ids=ids[:asked], response_ids=ids[asked:], own=flags)


ROWS: list[tuple[TokenSequence, ...]] = [
    (sequence(5, 6, 7, 1, asked=2), sequence(5, 6, 8, 9, 1, asked=2, own=3)),
    (sequence(5, 6, 3, 1, asked=2, own=2), sequence(4, 6, 3, 1, asked=2)),
    (sequence(2, 1, asked=1, own=2), sequence(2, 70000, 1, asked=1, own=2)),
]


def read_back(arrays: TokenArrays) -> list[tuple[TokenSequence, ...]]:
    return [arrays.sequences(row) for row in range(len(arrays.spans))]


ABOUT = About(data_hash="abc", notes=("a note",))


def writes(rows: Sequence[tuple[TokenSequence, ...]]) -> Make:
    def make(writer: Writer) -> About:
        for number, row in enumerate(rows):
            writer.add(row, Said(weight=1 / 3, strength=number % 4 - 1, lean=-1))
        return ABOUT

    return make


def kept(key: str | None, make: Make) -> tuple[TokenArrays, str]:
    """What a run does: look, and make what is not there."""
    arrays, damage = found(key)
    if arrays is not None:
        return arrays, damage
    made, trouble = keep(key, make)
    return made, damage or trouble


def fails(_: Writer) -> About:
    raise AssertionError("tokenised again")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def test_rows_in_memory_come_back_as_they_were() -> None:
    assert read_back(in_memory(writes(ROWS))) == ROWS
    assert read_back(in_memory(writes([]))) == []


def test_kept_rows_come_back_as_they_were(cache: Path) -> None:
    first, note = kept("key", writes(ROWS))
    again, again_note = kept("key", fails)
    assert read_back(first) == read_back(again) == ROWS
    assert (note, again_note) == ("", "")
    assert first.about == again.about == ABOUT
    assert (
        first.facts.tolist()
        == again.facts.tolist()
        == [
            (1 / 3, 1.0, -1, -1, 1, 4),
            (1 / 3, 1.0, 0, -1, 1, 3),
            (1 / 3, 1.0, 1, -1, 1, 4),
        ]
    )
    assert sorted(path.name for path in (cache / "key").iterdir()) == sorted([*FILES, HEADER])


def test_no_rows_are_kept_too() -> None:
    kept("key", writes([]))
    assert read_back(kept("key", fails)[0]) == []


def test_shared_prompt_lies_there_once_and_another_does_not() -> None:
    # 2 + 2 + 3; two prompts: 2 + 2 + 2 + 2; one prompt, marked in one of two ways: 1 + 1 + 1 + 2
    assert len(in_memory(writes(ROWS[:1])).ids) == 7
    assert len(in_memory(writes(ROWS[1:2])).ids) == 8
    assert len(in_memory(writes(ROWS[2:])).ids) == 5


def test_other_key_is_another_entry() -> None:
    kept("key", writes(ROWS))
    assert read_back(kept("other", writes(ROWS[:1]))[0]) == ROWS[:1]
    assert read_back(kept("key", fails)[0]) == ROWS


def test_switched_off_nothing_is_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", "off")
    arrays, note = kept("key", writes(ROWS))
    assert read_back(arrays) == ROWS
    assert note == ""
    assert not cache.parent.exists()


def test_no_key_keeps_nothing(cache: Path) -> None:
    assert read_back(kept(None, writes(ROWS))[0]) == ROWS
    assert not cache.exists()


@pytest.mark.parametrize("name", [*FILES, HEADER])
@pytest.mark.parametrize("harm", ["flip", "flip-inside", "cut", "longer", "empty", "missing"])
def test_damaged_entry_is_found_and_made_again(cache: Path, name: str, harm: str) -> None:
    kept("key", writes(ROWS))
    path = cache / "key" / name
    content = path.read_bytes()
    damaged = {
        "flip": bytes([content[0] ^ 1]) + content[1:],
        "flip-inside": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "cut": content[:-1] if name != HEADER else content[:-9],
        "longer": content + b"\1",
        "empty": b"",
    }
    path.unlink()
    if harm in damaged:
        path.write_bytes(damaged[harm])
    arrays, note = kept("key", writes(ROWS))
    assert read_back(arrays) == ROWS
    assert note.endswith("key: was damaged, tokenised again")
    assert read_back(kept("key", fails)[0]) == ROWS


def test_entry_of_another_key_is_not_believed(cache: Path) -> None:
    kept("key", writes(ROWS))
    shutil.copytree(cache / "key", cache / "stolen")
    assert read_back(kept("stolen", writes(ROWS[:1]))[0]) == ROWS[:1]


def test_rows_that_fail_leave_nothing_behind(cache: Path) -> None:
    def broken(writer: Writer) -> About:
        writer.add(ROWS[0], Said())
        raise ValueError("row 2 is bad")

    with pytest.raises(ValueError, match="row 2 is bad"):
        kept("key", broken)
    assert list(cache.iterdir()) == []


def test_folder_that_cannot_be_made_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "file"))
    arrays, note = kept("key", writes(ROWS))
    assert read_back(arrays) == ROWS
    assert "file/tokens: tokens are not kept: " in note


def test_arrays_outlive_their_entry(cache: Path) -> None:
    arrays, _ = kept("key", writes(ROWS))
    again, _ = kept("key", fails)
    shutil.rmtree(cache)
    assert read_back(arrays) == read_back(again) == ROWS


def test_a_look_makes_an_entry_young_again(cache: Path) -> None:
    kept("key", writes(ROWS))
    os.utime(cache / "key", (1, 1))
    kept("key", fails)
    assert (cache / "key").stat().st_mtime > 1e9


MAKER = """
import sys
from pathlib import Path
from tests.training.test_token_cache import ROWS, kept, read_back, writes
for key in range(40):
    arrays, note = kept(f"key{key}", writes(ROWS))
    if read_back(arrays) != ROWS or note:
        sys.exit(f"key{key}: {note or 'other rows'}")
"""


def test_two_processes_make_the_same_entries(root: Path, cache: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", MAKER], cwd=root, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(p.name for p in cache.iterdir()) == sorted(f"key{i}" for i in range(40))
