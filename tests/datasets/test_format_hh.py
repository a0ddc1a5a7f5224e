"""HH: the real file with its known dirt, and transcripts to the byte."""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.datasets import read_records, scan, write_records
from preftune.datasets.formats.columns import pair_id
from preftune.datasets.formats.hh import HH, read_transcript, write_transcript
from preftune.errors import DataError
from preftune.types import PreferencePair, assistant, make_prompt, user

KNOWN_ODD = {
    "broken_prefix": [855, 1138, 1310],
    "empty_response": [70, 352, 752],
    "odd_turns": [455, 520, 855, 1138, 1310],
}


@pytest.fixture(scope="module")
def hh_file(shared_data: Path) -> Path:
    return shared_data / "hh-harmless" / "harmless-base-test.jsonl.gz"


def test_real_file_has_just_the_known_odd_rows(hh_file: Path) -> None:
    lines: dict[str, list[int]] = defaultdict(list)
    opened = scan(hh_file)
    rows = list(opened.rows)
    for row in rows:
        for problem in row.problems:
            assert problem.fatal == (problem.kind == "empty_response")
            lines[problem.kind].append(row.line)
    assert (opened.format, len(rows), opened.percent()) == ("hh", 1548, 100)
    assert dict(lines) == KNOWN_ODD
    assert all(row.record is not None for row in rows)


def test_real_file_stops_at_line_70_unless_told_to_skip(hh_file: Path) -> None:
    with pytest.raises(
        DataError, match=r"test\.jsonl\.gz:70: chosen has an empty assistant turn\."
    ):
        read_records(hh_file)
    loaded = read_records(hh_file, on_bad="skip")
    assert len(loaded.records) == 1545
    assert [row.line for row in loaded.refused] == [70, 352, 752]
    assert [row.line for row in loaded.odd] == [455, 520, 855, 1138, 1310]


def test_real_rows_come_back_to_the_byte(hh_file: Path, tmp_path: Path) -> None:
    loaded = read_records(hh_file, on_bad="skip")
    lost = write_records(tmp_path / "again.jsonl", loaded.records, format="hh")
    assert lost.counts == {}
    with gzip.open(hh_file, "rb") as file:
        source = [
            json.loads(line) for n, line in enumerate(file, start=1) if n not in (70, 352, 752)
        ]
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").open("rb")]
    assert again == source
    assert read_records(tmp_path / "again.jsonl").records == loaded.records


def test_broken_prefix_keeps_the_shared_turns_as_prompt() -> None:
    row = {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c",
        "rejected": "\n\nHuman: a\n\nAssistant:  b",
    }
    record = HH.read(row, [])
    assert record.prompt.messages == (user("a"),)  # type: ignore[union-attr]  # hh holds pairs
    assert HH.write(record) == row


def test_a_mark_without_its_space_is_text() -> None:
    assert read_transcript("\n\nHuman: a\n\nAssistant:b\n\nAssistant: c", "chosen") == (
        user("a\n\nAssistant:b"),
        assistant("c"),
    )


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=20)), min_size=1, max_size=5))
def test_any_transcript_is_written_as_it_was_read(turns: list[tuple[bool, str]]) -> None:
    text = "".join(f"\n\n{'Human' if human else 'Assistant'}: {said}" for human, said in turns)
    assert write_transcript(read_transcript(text, "chosen")) == text


def test_single_turn_pairs_come_back_equal(tmp_path: Path) -> None:
    words = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: bool(t.strip()))

    @settings(max_examples=30)
    @given(words, st.lists(words, min_size=2, max_size=2, unique=True))
    def there_and_back(asked: str, answers: list[str]) -> None:
        prompt, (one, other) = make_prompt(user(asked)), answers
        chosen, rejected = (assistant(one),), (assistant(other),)
        identity = pair_id(prompt, chosen, rejected)
        pair = PreferencePair(id=identity, prompt=prompt, chosen=chosen, rejected=rejected)
        write_records(tmp_path / "a.jsonl", [pair], format="hh")
        assert read_records(tmp_path / "a.jsonl").records == [pair]

    there_and_back()
