"""`preftune grade`: scores in the order of the file, a line for each, and a run that goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.graders.grading_server import Reply, serving_grades
from tests.graders.test_grader_run import final, gsm8k
from tests.graders.test_grader_specs import CHECK, PYTHON, SCORE

from preftune.cli.grade import register
from preftune.errors import DataError, PreftuneError, RowError, SettingsError
from preftune.graders.grade_file import grade_file
from preftune.graders.rft_rows import read_rft_rows
from preftune.graders.run import GraderRunner
from preftune.graders.specs import validate
from preftune.records import encode
from preftune.types import Response, assistant

ROWS = [
    {"id": "a", "sample": "18", "item": {"answer": "18"}},
    {"id": "b", "sample": "17", "item": {"answer": "18"}},
    {"id": "c", "sample": "17", "item": {}},
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(*arguments: object) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    app(["grade", *map(str, arguments)], standalone_mode=False)


def test_command_writes_one_score_per_row_and_names_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "scores.jsonl"
    (tmp_path / "grader.yaml").write_text(json.dumps(CHECK))
    command(source, "--grader", tmp_path / "grader.yaml", "--out", out)
    assert [(row["response_id"], row["score"]) for row in read(out)] == [
        ("a", 1.0),
        ("b", 0.0),
        ("c", None),
    ]
    said = capsys.readouterr().out
    assert "3 answers graded: mean 0.500000" in said
    assert (
        "invalid_variable_error: 1 without a score, such as: item.answer: there is no such value"
        in said
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "rows.jsonl",
        "grader.yaml",
        "scores.jsonl",
    }


def test_command_checks_a_grader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grader.yaml"
    path.write_text(json.dumps(CHECK))
    command("--grader", path, "--validate")
    assert "a good string_check grader" in capsys.readouterr().out
    path.write_text(json.dumps({**CHECK, "operation": "equals"}))
    with pytest.raises(SettingsError, match=r"grader\.yaml\.operation"):
        command("--grader", path, "--validate")
    with pytest.raises(SettingsError, match="give FILE and --out"):
        path.write_text(json.dumps(CHECK))
        command("--grader", path)


@pytest.mark.parametrize(
    ("spec", "flags", "said"),
    [
        (SCORE, [], "of no known server"),
        (CHECK, ["--key-env", "KEY"], "--key-env without --url"),
        (PYTHON, ["--no-python"], "forbidden here"),
        (PYTHON, ["--deadline", "0"], "deadline_s"),
    ],
)
def test_command_refuses_what_cannot_be(
    tmp_path: Path, spec: dict[str, Any], flags: list[str], said: str
) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "grader.yaml").write_text(json.dumps(spec))
    with pytest.raises(PreftuneError, match=said):
        command(
            source, "--grader", tmp_path / "grader.yaml", "--out", tmp_path / "out.jsonl", *flags
        )
    assert not (tmp_path / "out.jsonl").exists()


def test_command_asks_a_model_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path / "rows.jsonl", ROWS[:2]), tmp_path / "scores.jsonl"
    (tmp_path / "grader.yaml").write_text(json.dumps(SCORE))
    unfinished = tmp_path / "scores.jsonl.unfinished"
    with serving_grades() as server:

        def say(asked: str) -> Reply:
            out.mkdir(exist_ok=True)  # the scores cannot be written: what was paid for is kept
            return Reply('{"result": 1}', status=500 if "\n17\n" in asked else 200)

        server.say = say
        arguments = (source, "--grader", tmp_path / "grader.yaml", "--out", out)
        reached = ("--url", server.url, "--allow-url", server.url)
        with GraderRunner(validate(SCORE), client_of=server.client_of) as runner:
            with pytest.raises(OSError, match="scores"):
                grade_file(runner, source, out=out)
            out.rmdir()
        assert unfinished.exists()
        server.say = lambda _: Reply('{"result": 0.5}')
        server.bodies.clear()
        command(*arguments, *reached)
    assert [row["score"] for row in read(out)] == [1.0, 0.5]
    assert "1 scores kept from an earlier run" in capsys.readouterr().out
    assert len(server.bodies) == 1
    assert not unfinished.exists()


def test_scores_of_two_servers_are_not_mixed(tmp_path: Path) -> None:
    source, out = write(tmp_path / "rows.jsonl", ROWS[:2]), tmp_path / "scores.jsonl"

    def say(_: str) -> Reply:
        out.mkdir(exist_ok=True)  # the scores cannot be written, so the grading stays unfinished
        return Reply('{"result": 1}')

    with serving_grades() as first, serving_grades() as second:
        first.say = second.say = say
        runners = [GraderRunner(validate(SCORE), client_of=s.client_of) for s in (first, second)]
        with pytest.raises(OSError, match="scores"):
            grade_file(runners[0], source, out=out)
        out.rmdir()
        with pytest.raises(DataError, match="of another grader, server or file"):
            grade_file(runners[1], source, out=out)
    assert not second.bodies


def test_out_may_not_be_an_input(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    before = source.read_bytes()
    with GraderRunner(validate(CHECK)) as runner, pytest.raises(DataError, match="is an input"):
        grade_file(runner, source, out=tmp_path / ".." / tmp_path.name / "rows.jsonl")
    assert source.read_bytes() == before


def test_items_that_no_line_needs_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    question = {"messages": [{"role": "user", "content": "9 + 9?"}], "answer": "18"}
    items = write(tmp_path / "rft.jsonl", [question])
    said = r"bring their own items\. Leave .*rft\.jsonl out"
    with GraderRunner(validate(CHECK)) as runner, pytest.raises(DataError, match=said):
        grade_file(runner, source, out=tmp_path / "out.jsonl", items=items)


def test_memory_without_an_end_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "grader.yaml").write_text(json.dumps(PYTHON))
    arguments = (source, "--grader", tmp_path / "grader.yaml", "--out", tmp_path / "o.jsonl")
    for much in ("inf", "nan"):
        with pytest.raises(SettingsError, match=f"--memory-gb {much}. Give"):
            command(*arguments, "--memory-gb", much)


def test_unfinished_grading_of_something_else_is_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "out.jsonl"
    with GraderRunner(validate(CHECK)) as runner:
        for content, said in ((b'{"grading": "g-1"}\n', "of another grader"), (b"x\n", "damaged")):
            (tmp_path / "out.jsonl.unfinished").write_bytes(content)
            with pytest.raises(DataError, match=said):
                grade_file(runner, source, out=out)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"item": {}}, "2: field 'sample' is missing"),
        ({"sample": 18}, "2: sample is a number, not text"),
        ({"sample": "", "item": []}, "2: item is a list, not an object"),
        ({"id": "a", "sample": ""}, "2: id 'a' a second time"),
        ({"type": "response"}, "2: Object missing required field"),
        ({"type": "response", "id": "r", "prompt_id": "p", "messages": []}, "2: a response alone"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    source = write(tmp_path / "rows.jsonl", [ROWS[0], bad])
    with GraderRunner(validate(CHECK)) as runner, pytest.raises(RowError, match=said):
        grade_file(runner, source, out=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_responses_are_graded_with_the_items_of_their_prompts(
    tmp_path: Path, shared_data: Path
) -> None:
    rows = gsm8k(shared_data)
    asked = [
        {
            "messages": [{"role": "user", "content": row["question"]}],
            "answer": final(row["ground_truth"]),
        }
        for row in rows
    ]
    items = write(tmp_path / "rft.jsonl", asked)
    source = tmp_path / "responses.jsonl"
    with source.open("wb") as file:
        for number, (row, known) in enumerate(zip(rows, read_rft_rows(items), strict=True)):
            said = assistant(final(row["175b_verification"]["solution"]))
            response = Response(id=f"r{number}", prompt_id=known.prompt.id, messages=(said,))
            file.write(encode(response))
    with GraderRunner(validate(CHECK)) as runner:
        report = grade_file(runner, source, out=tmp_path / "out.jsonl", items=items)
        assert (report.rows, report.errors) == (927, {})
        assert report.mean == pytest.approx(0.558792, abs=5e-7)
        foreign = encode(Response(id="x", prompt_id="p-none", messages=(assistant("1"),)))
        source.write_bytes(foreign)
        with pytest.raises(RowError, match="not among the items"):
            grade_file(runner, source, out=tmp_path / "out.jsonl", items=items)
