"""The audit as a whole: what it reads, what it refuses, its verdict and exit code."""

import json
import random
from pathlib import Path

import msgspec
import pytest

from preftune.datasets.audit import audit_file, finding_rows
from preftune.datasets.write import write_records
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    Rater,
    Response,
    assistant,
    make_prompt,
    user,
)

SECTIONS = [
    "Rows",
    "Agreement",
    "Raters",
    "Length and style",
    "Copies and contradictions",
    "Leakage",
    "Wrong labels: repeated votes",
    "Poisoning hints",
]


def pairs(n: int = 60) -> list[PreferencePair]:
    """Return pairs in which nothing stands out: five-letter words drawn by chance on both sides."""
    rng = random.Random(0)

    def said() -> str:
        return " ".join("".join(rng.choices("abcdefghij", k=5)) for _ in range(12))

    return [
        PreferencePair(
            id=f"p{i}",
            prompt=make_prompt(user(said())),
            chosen=(assistant(said()),),
            rejected=(assistant(said()),),
        )
        for i in range(n)
    ]


def votes(n: int = 60) -> list[Comparison | Judgment]:
    records: list[Comparison | Judgment] = []
    for pair in pairs(n):
        shown = Comparison(
            id=f"c-{pair.id}",
            prompt=pair.prompt,
            responses=tuple(
                Response(id=f"{pair.id}-{s}", prompt_id=pair.prompt.id, messages=said)
                for s, said in (("a", pair.chosen), ("b", pair.rejected))
            ),
        )
        records.append(shown)
        records += [
            Judgment(
                id=f"{shown.id}/{rater}",
                comparison_id=shown.id,
                kind="binary",
                rater=Rater(id=rater, kind="human"),
                choice=0,
            )
            for rater in "xy"
        ]
    return records


def test_a_sound_file_has_every_section_and_exit_code_0(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs())
    found = audit_file(tmp_path / "pairs.jsonl")
    assert [section.title for section in found.sections] == SECTIONS
    assert (found.rows, found.usable, found.pairs, found.prompts) == (60, 60, 60, 60)
    assert (found.verdict, found.exit_code) == ("ok", 0)


def test_a_leak_stops_and_comes_first(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs())
    write_records(tmp_path / "test.jsonl", pairs()[:2])
    found = audit_file(tmp_path / "pairs.jsonl", against=[tmp_path / "test.jsonl"])
    assert (found.verdict, found.exit_code) == ("stop", 1)
    assert finding_rows(found)[0][:2] == ("stop", "leak")


def test_a_row_that_cannot_be_used_stops_and_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(3)]
    rows.insert(1, {"prompt": "q", "chosen": "same", "rejected": "same"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit_file(path)
    (bad,) = [f for f in found.findings if f.verdict == "stop"]
    assert (bad.lines, found.usable, found.exit_code) == ((2,), 3, 1)


def test_votes_in_the_file_or_beside_it_say_the_same(tmp_path: Path) -> None:
    write_records(tmp_path / "all.jsonl", votes())
    write_records(tmp_path / "shown.jsonl", [r for r in votes() if isinstance(r, Comparison)])
    write_records(tmp_path / "votes.jsonl", [r for r in votes() if isinstance(r, Judgment)])
    write_records(tmp_path / "pairs.jsonl", pairs())
    inside = audit_file(tmp_path / "all.jsonl")
    beside = audit_file(
        tmp_path / "pairs.jsonl",
        judgments=tmp_path / "votes.jsonl",
        comparisons=tmp_path / "shown.jsonl",
    )
    assert inside.votes == beside.votes == 120
    assert inside.pairs == beside.pairs == 60
    for place in (2, 6, 7):  # raters, repeated votes, poisoning
        assert inside.sections[place] == beside.sections[place]


def test_votes_on_comparisons_that_are_not_there_are_counted_and_told(tmp_path: Path) -> None:
    write_records(tmp_path / "all.jsonl", votes()[3:])
    stray = [r for r in votes()[:3] if isinstance(r, Judgment)]
    write_records(tmp_path / "more.jsonl", stray)
    found = audit_file(tmp_path / "all.jsonl", judgments=tmp_path / "more.jsonl")
    assert found.votes == 118
    assert any("2 judgments are on comparisons that are not here" in n for n in found.notes)


def test_few_prompts_are_told(tmp_path: Path) -> None:
    write_records(tmp_path / "few.jsonl", pairs(5))
    assert any("Only 5 prompts" in note for note in audit_file(tmp_path / "few.jsonl").notes)


def test_the_same_file_gives_the_same_audit(tmp_path: Path) -> None:
    write_records(tmp_path / "all.jsonl", votes())
    once, again = (audit_file(tmp_path / "all.jsonl") for _ in range(2))
    assert msgspec.json.encode(once) == msgspec.json.encode(again)


def test_a_file_that_prefers_nothing_is_refused(tmp_path: Path) -> None:
    rows = [Demonstration(id="d", prompt=pairs(1)[0].prompt, response=pairs(1)[0].chosen)]
    write_records(tmp_path / "sft.jsonl", rows)
    with pytest.raises(DataError, match="prefers no response to another"):
        audit_file(tmp_path / "sft.jsonl")


def test_a_file_is_not_held_out_from_itself(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs())
    with pytest.raises(DataError, match="the same file"):
        audit_file(tmp_path / "pairs.jsonl", against=[tmp_path / "pairs.jsonl"])
