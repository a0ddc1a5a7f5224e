"""Real shapes of every format: detected by name, read into the expected record."""

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.datasets import read_records, scan
from preftune.errors import DataError
from preftune.types import (
    Demonstration,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    ToolCall,
    UnpairedRow,
    assistant,
    make_prompt,
    user,
)

ASK: list[dict[str, Any]] = [{"role": "user", "content": "Q"}]
YES: list[dict[str, Any]] = [{"role": "assistant", "content": "yes"}]
NO: list[dict[str, Any]] = [{"role": "assistant", "content": "no"}]
TOOLS = [{"type": "function", "function": {"name": "look"}}]
SCORES = {"score_chosen": 8.5, "score_rejected": 3.0}
UF = {
    "prompt": "Q",
    "prompt_id": "p1",
    "chosen": ASK + YES,
    "rejected": ASK + NO,
    "messages": ASK + YES,
}

ROWS: list[tuple[str, dict[str, Any]]] = [
    (
        "hh",
        {"chosen": "\n\nHuman: Q\n\nAssistant: yes", "rejected": "\n\nHuman: Q\n\nAssistant: no"},
    ),
    ("trl", {"prompt": ASK, "chosen": YES, "rejected": NO}),
    ("trl", {"prompt": "Q", "chosen": YES, "rejected": NO}),
    ("trl-text", {"prompt": "Q", "chosen": "yes", "rejected": "no"}),
    ("trl-implicit", {"chosen": ASK + YES, "rejected": ASK + NO}),
    ("ultrafeedback", {**UF, **SCORES}),
    ("openai", {"input": {"messages": ASK}, "preferred_output": YES, "non_preferred_output": NO}),
]


def one(tmp_path: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path, format: str | None = None) -> Record:
    (record,) = read_records(path, format=format).records
    return record


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_every_format_gives_the_same_pair(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    path = one(tmp_path, row, row)
    assert scan(path).format == name
    pair = read_records(path).records[0]
    assert isinstance(pair, PreferencePair)
    assert pair.prompt.messages == (user("Q"),)
    assert (pair.chosen, pair.rejected) == ((assistant("yes"),), (assistant("no"),))


def test_equal_content_has_equal_ids_in_every_format(tmp_path: Path) -> None:
    rows = [row for name, row in ROWS if name != "ultrafeedback"]  # it brings an id of its own
    found = {only(one(tmp_path, row)).id for row in rows}
    assert len(found) == 1
    assert only(one(tmp_path, rows[0])).prompt.id == make_prompt(user("Q")).id  # type: ignore[union-attr]  # pairs


def test_ultrafeedback_keeps_scores_and_prompt_id(tmp_path: Path) -> None:
    pair = only(one(tmp_path, {**UF, **SCORES}))
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen_score, pair.rejected_score, pair.prompt.id) == (8.5, 3.0, "p1")


def test_ultrafeedback_names_mismatch_and_equal_scores(tmp_path: Path) -> None:
    row = {**UF, "prompt": "another", "score_chosen": 4, "score_rejected": 4}
    (odd,) = read_records(one(tmp_path, row)).odd
    assert [problem.kind for problem in odd.problems] == ["prompt_mismatch", "equal_scores"]


def test_implicit_text_parts_before_the_space(tmp_path: Path) -> None:
    # TRL's own example: the shared "The sky is" is the prompt, " blue." and " green." the answers
    pair = only(one(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is green."}))
    assert isinstance(pair, PreferencePair)
    assert pair.prompt.messages == (user("The sky is"),)
    assert (pair.chosen, pair.rejected) == ((assistant(" blue."),), (assistant(" green."),))


def test_other_kinds_are_detected(tmp_path: Path) -> None:
    cases: list[tuple[str, type[Record], dict[str, Any]]] = [
        ("trl-unpaired", UnpairedRow, {"prompt": "Q", "completion": "yes", "label": True}),
        ("trl-completion", Demonstration, {"prompt": ASK, "completion": YES}),
        ("trl-prompt", Prompt, {"prompt": "Q"}),
        ("chat", Demonstration, {"messages": ASK + YES}),
        ("ranked", RankedList, {"prompt": "Q", "responses": ["a", "b", "c"]}),
        ("ranked", RankedList, {"messages": ASK, "responses": [YES, NO], "ranks": [1, 1]}),
        ("preftune", Prompt, {"type": "prompt", "id": "x", "messages": ASK}),
    ]
    for name, kind, row in cases:
        path = one(tmp_path, row)
        assert scan(path).format == name
        assert isinstance(only(path), kind)


def test_tool_calls_of_openai_and_trl_are_the_same_record(tmp_path: Path) -> None:
    def row(arguments: object) -> dict[str, Any]:
        call = {
            "id": "c1",
            "type": "function",
            "function": {"name": "look", "arguments": arguments},
        }
        turns = [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            *YES,
        ]
        return {"messages": turns, "tools": TOOLS}

    text, parsed = (only(one(tmp_path, row(a))) for a in ('{"x":1}', {"x": 1}))
    assert text == parsed
    assert isinstance(text, Demonstration)
    assert text.prompt.messages == (user("Q"),)
    assert [m.role for m in text.response] == ["assistant", "tool", "assistant"]
    assert text.response[0].tool_calls == (ToolCall(id="c1", name="look", arguments='{"x":1}'),)
    assert text.prompt.tools == tuple(TOOLS)


def test_chat_response_follows_the_last_user_turn(tmp_path: Path) -> None:
    record = only(one(tmp_path, {"messages": [*ASK, *NO, {"role": "user", "content": "R"}, *YES]}))
    assert isinstance(record, Demonstration)
    assert record.prompt.messages == (user("Q"), assistant("no"), user("R"))
    assert record.response == (assistant("yes"),)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "extra": 1}, "unknown_field"),
        ({"prompt": [{**ASK[0], "mood": "glad"}], "chosen": YES, "rejected": NO}, "unknown_field"),
        ({"type": "prompt", "id": "x", "messages": ASK, "tag": []}, "unknown_field"),
        (
            {"prompt": [{"role": "developer", "content": "Q"}], "chosen": YES, "rejected": NO},
            "developer_role",
        ),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}],
                "chosen": YES,
                "rejected": NO,
            },
            "content_parts",
        ),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty_turn"),
        ({"prompt": "Q", "responses": ["a", "a"]}, "repeated_response"),
    ],
)
def test_oddities_are_named_and_the_row_is_kept(
    row: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    loaded = read_records(one(tmp_path, row))
    assert len(loaded.records) == 1
    assert [problem.kind for problem in loaded.odd[0].problems] == [kind]


def test_csv_and_its_name_are_detected_by_the_header(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text(
        "\ufeffprompt,chosen,rejected,strength,rater\nQ,yes,no,2,ann\n", encoding="utf-8"
    )
    pair = only(path)
    assert scan(path).format == "csv"
    assert isinstance(pair, PreferencePair)
    assert (pair.strength, pair.provenance.raters) == (2, ("ann",))


def test_parquet_of_ultrafeedback_is_named_as_such(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**UF, **SCORES}]), tmp_path / "a.parquet")
    assert scan(tmp_path / "a.parquet").format == "parquet:ultrafeedback"
    assert only(tmp_path / "a.parquet") == only(one(tmp_path, {**UF, **SCORES}))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"a": 1}],
            r"rows\.jsonl:1: fields 'a' fit no known format\. Name it with --format: preftune, hh",
        ),
        ([{"prompt": "Q", "chosen": "a"}], "closest is trl, which also has 'rejected'"),
        ([{}], "fields none fit"),
        ([ROWS[0][1], ROWS[3][1]], "fit hh and trl-text equally well"),
    ],
)
def test_unknown_and_ambiguous_files_list_the_formats(
    rows: list[Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        scan(one(tmp_path, *rows))


def test_the_majority_decides_and_the_odd_row_out_is_named(tmp_path: Path) -> None:
    path = one(tmp_path, ROWS[3][1], {"prompt": "Q", "chosen": "a"}, ROWS[3][1])
    with pytest.raises(DataError, match=r":2: field 'rejected' is missing\. Add it to the row\."):
        read_records(path)
