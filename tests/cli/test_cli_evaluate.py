import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.records import encode
from preftune.types import Prompt, Response, assistant, user

SUITE = """\
suite: small
gates:
  - {name: wins, kind: lower_bound_above, measure: win_rate, threshold: 0.5}
  - {name: facts, kind: non_inferior, check: facts, margin: 0.1}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Twenty prompts, an answer of two systems to each, the right answer, and checked items."""
    prompts = [Prompt(id=f"p{n}", messages=(user(f"{n} ?"),), tags=("tail",)) for n in range(20)]
    said = {"base": "well , {}", "tuned": "{} it is", "answers": "{} it is"}
    (tmp_path / "prompts.jsonl").write_bytes(b"".join(map(encode, prompts)))
    for name, text in said.items():
        rows = [
            Response(
                id=f"{name}{n}",
                prompt_id=f"p{n}",
                messages=(assistant(text.format("w" * (n % 3 + 1))),),
                generator=name,
            )
            for n in range(20)
        ]
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(map(encode, rows)))
    items = [
        {"check": "facts", "prompt_id": f"p{n}", "baseline": True, "candidate": True}
        for n in range(40)
    ]
    (tmp_path / "checks.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "gates.yaml").write_text(SUITE)
    return tmp_path


def judge(run_cli: Callable[..., Any], files: Path, *more: object) -> Any:
    return run_cli(
        "judge", "rules",
        "--first", files / "base.jsonl",
        "--second", files / "tuned.jsonl",
        "--prompts", files / "prompts.jsonl",
        "--out", files / "judged.jsonl",
        *more,
    )  # fmt: skip


def evaluate(run_cli: Callable[..., Any], files: Path, *more: object) -> Any:
    judge(run_cli, files, "--rule", "rouge-l", "--references", files / "answers.jsonl")
    return run_cli(
        "evaluate",
        "--judged", files / "judged.jsonl",
        "--candidate", "tuned",
        "--baseline", "base",
        "--out", files / "evaluation.json",
        *more,
    )  # fmt: skip


def test_judge_evaluate_gate_and_report_run_one_after_the_other(
    run_cli: Callable[..., Any], files: Path
) -> None:
    judged = judge(run_cli, files, "--rule", "rouge-l", "--references", files / "answers.jsonl")
    assert judged.code == 0, judged.err
    assert "20 comparisons: first wins 0, second wins 20, ties 0" in judged.out
    measured = evaluate(run_cli, files, "--checks", files / "checks.jsonl")
    assert measured.code == 0, measured.err
    assert "win_rate" in measured.out and "win_rate[tail]" in measured.out
    verdict = run_cli(
        "gate", files / "evaluation.json", "--suite", files / "gates.yaml",
        "--out", files / "gate.json",
    )  # fmt: skip
    assert (verdict.code, verdict.err) == (0, "")
    assert verdict.out.endswith("verdict: ship\n")
    shown = run_cli(
        "report", files / "evaluation.json", "--gate", files / "gate.json",
        "--judged", files / "judged.jsonl", "--out", files / "report.html",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    html = (files / "report.html").read_text()
    assert "Ship it" in html and html.count('<article class="example">') == 5


def test_gate_exit_codes_tell_fail_and_cant_tell_apart(
    run_cli: Callable[..., Any], files: Path
) -> None:
    evaluate(run_cli, files)  # without the checks: facts can't be told
    command = ("gate", files / "evaluation.json", "--suite", files / "gates.yaml")
    unclear = run_cli(*command)
    assert unclear.code == 3
    assert "check 'facts' was not measured" in unclear.out
    (files / "gates.yaml").write_text(SUITE.replace("lower_bound_above", "upper_bound_below"))
    failed = run_cli(*command)
    assert failed.code == 1
    assert failed.out.endswith("verdict: don't ship\n")


def test_equal_input_gives_equal_bytes(run_cli: Callable[..., Any], files: Path) -> None:
    evaluate(run_cli, files)
    first = (files / "judged.jsonl").read_bytes(), (files / "evaluation.json").read_bytes()
    evaluate(run_cli, files)
    again = (files / "judged.jsonl").read_bytes(), (files / "evaluation.json").read_bytes()
    assert first == again


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rule", "rouge-l"], "no reference for prompt p0"),
        (["--rule", "rogue-l"], "rogue-l"),
        (["--rule", "regex"], "needs a pattern"),
        (["--rule", "length", "--prefer", "up"], "prefer"),
        (["--rule", "length", "--tie-within", "-1"], "tie_within"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    run_cli: Callable[..., Any], files: Path, more: list[str], message: str
) -> None:
    ran = judge(run_cli, files, *more)
    assert ran.code == 2
    assert message in ran.err and len(ran.err.strip().splitlines()) == 1
    assert not (files / "judged.jsonl").exists()


def test_unknown_names_and_keys_are_named(run_cli: Callable[..., Any], files: Path) -> None:
    judge(run_cli, files, "--rule", "length")
    ran = run_cli(
        "evaluate", "--judged", files / "judged.jsonl", "--candidate", "tune",
        "--baseline", "base", "--out", files / "e.json",
    )  # fmt: skip
    assert ran.code == 2
    assert "Generators in the file: base, tuned" in ran.err
    (files / "gates.yaml").write_text(SUITE.replace("margin", "margn"))
    evaluate(run_cli, files)
    wrong = run_cli("gate", files / "evaluation.json", "--suite", files / "gates.yaml")
    assert wrong.code == 2
    assert "Did you mean 'margin'?" in wrong.err


@pytest.mark.parametrize("command", [("judge", "rules"), ("evaluate",), ("gate",), ("report",)])
def test_help_has_an_example(run_cli: Callable[..., Any], command: tuple[str, ...]) -> None:
    assert f"Example: preftune {' '.join(command)}" in run_cli(*command, "--help").out
