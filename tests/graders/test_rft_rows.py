"""RFT rows: the item is what is not the prompt; a bad line is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.errors import DataError, RowError
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.types import Message

ASK = {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4", "level": {"n": 1}}
TOOL = {"type": "function", "function": {"name": "add"}}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def test_rows_become_prompts_and_items(tmp_path: Path) -> None:
    talk = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "3 + 3?"}]
    path = write(tmp_path / "rft.jsonl", ASK, {"messages": talk, "tools": [TOOL], "answer": 6})
    first, second = read_rft_rows(path)
    assert first.prompt.messages == (Message(role="user", content="2 + 2?"),)
    assert first.item == {"answer": "4", "level": {"n": 1}}
    assert (second.item, second.prompt.tools) == ({"answer": 6}, (TOOL,))
    assert [note.kind for note in second.notes] == ["developer_role"]
    assert items_of([first, second])[second.prompt.id] == {"answer": 6}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "2: broken JSON"),
        ("", "2: the line is blank"),
        ("[1]", "2: the line is not a JSON object"),
        ({"answer": "4"}, "2: field 'messages' is missing"),
        ({"messages": []}, "2: messages has no messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"2: messages\[0\] has role 'bot'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "2: the last message has role"),
        ({**ASK, "answer": "5"}, "2: asks what line 1 asks, with another item"),
        ({**ASK, "tools": "x"}, "2: broken JSON"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, bad: Any, said: str) -> None:
    with pytest.raises(RowError, match=said):
        read_rft_rows(write(tmp_path / "rft.jsonl", ASK, bad))


def test_a_row_that_stands_twice_is_read_twice(tmp_path: Path) -> None:
    assert len(read_rft_rows(write(tmp_path / "rft.jsonl", ASK, ASK))) == 2


def test_more_rows_than_allowed_are_refused(tmp_path: Path) -> None:
    other = {"messages": [{"role": "user", "content": "else"}]}
    with pytest.raises(RowError, match="2: more than 1 rows"):
        read_rft_rows(write(tmp_path / "rft.jsonl", ASK, other), most=1)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rft_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read_rft_rows(write(tmp_path / "empty.jsonl"))
