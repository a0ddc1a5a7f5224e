"""Rows of jobs: what is wrong with which message of which example, in which line."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.datasets import read_demonstrations, read_pairs
from preftune.datasets.job_rows import MOST_SHOWN, Method, RowsReport, check_rows, syntax_problem
from preftune.types import Message, PreferencePair, assistant, make_prompt, user

USER = {"role": "user", "content": "why?"}
GOOD, BAD = {"role": "assistant", "content": "so"}, {"role": "assistant", "content": "no"}
PAIR = {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}
CHAT = {"messages": [USER, GOOD]}
PROMPT = {"messages": [USER], "answer": "42"}
USUAL: dict[Method, dict[str, Any]] = {"dpo": PAIR, "supervised": CHAT, "reinforcement": PROMPT}
LINE_BYTES = 2**20


def written(folder: Path, *rows: object) -> Path:
    path = folder / "blob"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def check(folder: Path, method: Method, *rows: object) -> RowsReport:
    return check_rows(written(folder, *rows), "mine.jsonl", method=method)


def only(report: RowsReport) -> str:
    (problem,) = report.problems
    return problem.message


@pytest.mark.parametrize("method", ["supervised", "dpo", "reinforcement"])
def test_good_rows_have_no_problems(tmp_path: Path, method: Method) -> None:
    row = USUAL[method]
    report = check(tmp_path, method, row, {**row, "user": "x"} if method == "dpo" else row)
    assert (report.examples, report.bad, report.problems) == (2, 0, ())


def test_a_problem_names_example_message_and_line(tmp_path: Path) -> None:
    bad = {"messages": [USER, {"role": "assistant", "content": 5}]}
    said = only(check(tmp_path, "supervised", CHAT, CHAT, bad))
    assert said.startswith("Example 3, message 2 (line 3 of mine.jsonl): messages[1].content is")
    assert str(tmp_path) not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preferred_output": []}, "preferred_output has no messages"),
        ({"preferred_output": "so"}, "preferred_output is text, not a list"),
        ({"preferred_output": [BAD]}, "preferred_output and non_preferred_output are equal"),
        ({"preferred_output": [{**GOOD, "content": " "}]}, "preferred_output has an empty"),
        ({"non_preferred_output": [USER, BAD]}, "message 1 (line 2 of mine.jsonl): non_preferred"),
        (
            {"non_preferred_output": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
            "non_preferred_output does not end in an assistant turn",
        ),
        (
            {"preferred_output": [{**GOOD, "weight": 0}]},
            "every assistant message of preferred_output has weight 0",
        ),
        (
            {"non_preferred_output": [{**BAD, "weight": 0}]},
            "every assistant message of non_preferred_output has weight 0",
        ),
        ({"input": {"messages": [{"role": "usr", "content": "a"}]}}, "role 'usr'"),
        ({"input": {"prompt": "a"}}, "field 'messages' is missing"),
        ({"input": "a"}, "input is text, not an object"),
    ],
)
def test_pairs_that_cannot_be_learnt_from_say_why(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    message = only(check(tmp_path, "dpo", PAIR, {**PAIR, **change}))
    assert message.startswith("Example 2")
    assert said in message


def test_a_missing_output_is_named(tmp_path: Path) -> None:
    row = {"input": PAIR["input"], "preferred_output": [GOOD]}
    assert "'non_preferred_output' is missing" in only(check(tmp_path, "dpo", row))


def test_many_turns_and_tools_are_fine(tmp_path: Path) -> None:
    call = {
        "role": "assistant",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    }
    row = {
        "input": {"messages": [USER, GOOD, USER], "tools": [{"type": "function"}]},
        "preferred_output": [
            {**call, "weight": 0},
            {"role": "tool", "tool_call_id": "1", "content": "7"},
            GOOD,
        ],
        "non_preferred_output": [BAD],
    }
    assert check(tmp_path, "dpo", row).problems == ()


def test_our_own_pairs_keep_weight_and_strength(tmp_path: Path) -> None:
    row = {
        "type": "pair",
        "id": "1",
        "prompt": {"id": "p", "messages": [USER, GOOD, USER]},
        "chosen": [GOOD],
        "rejected": [BAD],
        "strength": 3,
        "weight": 0.5,
    }
    report = check(tmp_path, "dpo", row)
    assert (report.problems, report.format) == ((), "preftune")
    (pair,) = read_pairs(written(tmp_path, row), format=report.format)
    assert (pair.strength, pair.weight) == (3, 0.5)
    assert "strength" in only(check(tmp_path, "dpo", {**row, "strength": 9}))


@pytest.mark.parametrize(
    ("method", "row", "said"),
    [
        ("dpo", CHAT, "these are conversations in chat format, and the job's method is dpo"),
        ("supervised", PAIR, "these are pairs, and the job's method is supervised"),
        ("reinforcement", PAIR, "these are pairs, and the job's method is reinforcement"),
        ("reinforcement", CHAT, "the last message has role 'assistant'"),
        ("supervised", PROMPT, "does not end in an assistant turn"),
        ("dpo", {"nothing": 1}, "'input' is missing"),
        ("supervised", {"nothing": 1}, "'messages' is missing"),
        ("reinforcement", {"nothing": 1}, "'messages' is missing"),
    ],
)
def test_rows_of_another_method_say_so(
    tmp_path: Path, method: Method, row: dict[str, Any], said: str
) -> None:
    assert said in only(check(tmp_path, method, row))


def test_a_file_of_our_own_demonstrations_is_no_file_of_pairs(tmp_path: Path) -> None:
    row = {"type": "demonstration", "id": "1", "prompt": {"id": "p", "messages": [USER]}}
    report = check(tmp_path, "dpo", {**row, "response": [GOOD]})
    assert "one of demonstrations, and the job's method is dpo" in only(report)


def test_prompts_with_completions_are_demonstrations(tmp_path: Path) -> None:
    report = check(tmp_path, "supervised", {"prompt": "why?", "completion": "so"})
    assert report.problems == ()
    path = written(tmp_path, {"prompt": "why?", "completion": "so"})
    (row,) = read_demonstrations(path, format=report.format)
    assert row.prompt == make_prompt(user("why?"))
    assert row.response == (assistant("so"),)


def test_what_is_odd_is_counted_and_harmless(tmp_path: Path) -> None:
    report = check(tmp_path, "dpo", PAIR, {**PAIR, "weight": 2}, {**PAIR, "weight": 3})
    assert report.problems == ()
    assert report.odd == {"unknown field 'weight', not kept": 2}


def test_the_first_problems_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    report = check(tmp_path, "dpo", *[{**PAIR, "preferred_output": [BAD]}] * 50)
    assert (report.examples, report.bad, len(report.problems)) == (50, 50, MOST_SHOWN)


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = written(tmp_path, PAIR, PAIR, {"bad": 1})
    report = check_rows(path, "a", method="dpo", limit=2)
    assert (report.examples, report.bad) == (2, 0)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"PAR1", b"\x1f\x8b\x08"])
def test_a_file_that_is_none_has_a_problem_that_names_no_path(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "blob").write_bytes(content)
    for method in USUAL:
        report = check_rows(tmp_path / "blob", "mine.jsonl", method=method)
        assert report.problems
        assert str(tmp_path) not in report.problems[0].message


def test_many_rows_need_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    row = {**PAIR, "preferred_output": [{"role": "assistant", "content": 2000 * "a"}]}
    line = json.dumps(row).encode() + b"\n"
    with path.open("wb") as file:
        for _ in range(2000):
            file.write(line)
    tracemalloc.start()
    assert check_rows(path, "a", method="dpo").examples == 2000
    assert syntax_problem(path, most_line_bytes=LINE_BYTES) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4 * 2**20
    assert peak < 2 * 2**20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
NAMES = """
input messages preferred_output non_preferred_output tools type prompt chosen rejected completion
label role content weight answer
"""
FIELDS = st.sampled_from(NAMES.split())


@given(row=st.dictionaries(FIELDS, JSON, max_size=5), method=st.sampled_from(sorted(USUAL)))
@settings(max_examples=60, deadline=None)
def test_t11_no_row_breaks_the_check(
    row: dict[str, Any], method: Method, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for rows in ((row,), (USUAL[method], row)):
        report = check(folder, method, *rows)
        assert report.bad <= report.examples
        assert bool(report.bad) == bool(report.problems) or report.examples == 0
        assert all(str(folder) not in problem.message for problem in report.problems)


@given(outputs=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=2, unique=True))
@settings(max_examples=25, deadline=None)
def test_what_the_check_passes_the_readers_take(
    outputs: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    better, worse = ([{"role": "assistant", "content": text}] for text in outputs)
    row = {**PAIR, "preferred_output": better, "non_preferred_output": worse}
    path = written(tmp_path_factory.getbasetemp(), row)
    report = check_rows(path, "a", method="dpo")
    assert report.problems == ()
    (pair,) = read_pairs(path, format=report.format)
    assert isinstance(pair, PreferencePair)
    assert pair.chosen == (Message(role="assistant", content=outputs[0]),)
