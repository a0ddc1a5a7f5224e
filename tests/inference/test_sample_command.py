import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.datasets.read import read_responses
from preftune.datasets.write import write_records
from preftune.types import make_prompt, user

PROMPTS = [make_prompt(user(text)) for text in ("wash it ?", "dry it or iron it ?", "cat")]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    write_records(path, PROMPTS, format="preftune")
    return path


def test_sample_writes_n_responses_to_each_prompt(
    run_cli: Callable[..., Any], policy_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["sample", policy_folder, "--prompts", prompts, "--out", out, "--n", 2]
    command += ["--max-new-tokens", 6, "--temperature", 0.7, "--top-p", 0.9, "--seed", 4]
    ran = run_cli(*command)
    assert ran.code == 0, ran.err
    found = read_responses(out)
    assert [r.prompt_id for r in found] == [p.id for p in PROMPTS for _ in range(2)]
    sampling = found[0].sampling
    assert sampling is not None
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.9, 6)
    assert "6 responses to 3 prompts" in ran.out
    cut = sum(not r.finished for r in found)
    assert (f"{cut} were cut at the longest length" in ran.out) == (cut > 0)
    before = out.read_bytes()
    again = run_cli(*command)
    assert "6 responses kept from an earlier run, 0 cut" in again.out
    assert out.read_bytes() == before


def test_a_response_is_cut_before_a_stop(
    run_cli: Callable[..., Any], policy_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    found = {}
    for name, extra in (("whole", []), ("cut", ["--stop", "no such text", "--stop", "it"])):
        command = ["sample", policy_folder, "--prompts", prompts, "--out", tmp_path / name]
        assert run_cli(*command, "--n", 8, "--max-new-tokens", 8, *extra).code == 0
        found[name] = [one.messages[0].content for one in read_responses(tmp_path / name)]
    assert found["cut"] == [text.partition("it")[0] for text in found["whole"]]
    assert found["cut"] != found["whole"]


def test_rows_of_rft_are_prompts_and_their_items_grade_the_responses(
    run_cli: Callable[..., Any], policy_folder: Path, tmp_path: Path
) -> None:
    row = {"messages": [{"role": "user", "content": "wash it ?"}], "answer": "yes"}
    rows, out = tmp_path / "rft.jsonl", tmp_path / "out.jsonl"
    rows.write_text(f"{json.dumps(row)}\n" * 2)
    command = ["sample", policy_folder, "--prompts", rows, "--out", out, "--n", 3]
    ran = run_cli(*command, "--max-new-tokens", 6)
    assert ran.code == 0, ran.err
    assert "3 responses to 1 prompts" in ran.out
    grader = tmp_path / "grader.json"
    check = {"type": "string_check", "name": "right", "operation": "ilike"}
    check |= {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    grader.write_text(json.dumps(check))
    ran = run_cli(
        *("grade", out, "--items", rows, "--grader", grader, "--out", tmp_path / "scores.jsonl")
    )
    assert ran.code == 0, ran.err
    assert "3 answers graded" in ran.out


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--temperature", "-1"], "command line: temperature"),
        (["--top-p", "1.5"], "command line: top_p"),
        (["--temperature", "0"], "n 4 at temperature 0"),
        (["--temperature", "0", "--top-k", "3"], "temperature 0 takes no notice"),
        (["--n", "0"], "Draw 1 or more per prompt"),
        (["--max-new-tokens", "100000"], "exceed the model's"),
        (["--batch-size", "0"], "command line: batch_size"),
        (["--stop", ""], "an empty text would end every reply"),
    ],
)
def test_setting_that_cannot_be_meant_is_one_line_and_no_file(
    run_cli: Callable[..., Any], policy_folder: Path, prompts: Path, extra: list[str], says: str
) -> None:
    out = prompts.with_name("out.jsonl")
    ran = run_cli("sample", policy_folder, "--prompts", prompts, "--out", out, *extra)
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert [path.name for path in prompts.parent.iterdir()] == ["prompts.jsonl"]


def test_help_of_both_commands_has_an_example(run_cli: Callable[..., Any]) -> None:
    for name in ("sample", "score"):
        assert f"Example: preftune {name} " in run_cli(name, "--help").out
