"""`preftune model new`, `model show`, `data preview`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROW = {
    "prompt": [{"role": "user", "content": "hello\nworld"}],
    "chosen": [{"role": "assistant", "content": "yes \x1b[31m you"}],
    "rejected": [{"role": "assistant", "content": "no"}],
}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text((json.dumps(ROW) + "\n") * 2)
    return file


@pytest.fixture
def base(tmp_path: Path, pairs: Path, run_cli: Callable[..., Any]) -> Path:
    made = run_cli("model", "new", tmp_path / "base", "--text", pairs, "--vocab-size", 270)
    assert (made.code, made.err) == (0, "")
    return tmp_path / "base"


def test_show_prints_the_figures(base: Path, run_cli: Callable[..., Any]) -> None:
    shown = run_cli("model", "show", base)
    assert (shown.code, shown.err) == (0, "")
    vocabulary = int(shown.out.split("vocabulary")[1].split()[0])
    assert f"parameters     {566_144 + vocabulary * 128:,}" in shown.out
    for part in ("llama (decoder)", "<|end|>", "1,024 tokens", "fingerprint", "'<|assistant|>'"):
        assert part in shown.out


def test_same_command_makes_the_same_fingerprint(
    base: Path, pairs: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    run_cli("model", "new", tmp_path / "again", "--text", pairs, "--vocab-size", 270)
    assert run_cli("model", "show", base).out == run_cli("model", "show", tmp_path / "again").out


def test_text_file_trains_a_tokenizer_of_words(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (tmp_path / "a.txt").write_text("one two three\n")
    made = run_cli(
        "model", "new", tmp_path / "m", "--text", tmp_path / "a.txt", "--tokenizer", "words"
    )
    assert made.code == 0
    assert "vocabulary     10 tokens" in run_cli("model", "show", tmp_path / "m").out


def test_preview_brackets_own_tokens_and_hides_no_character(
    base: Path, pairs: Path, run_cli: Callable[..., Any]
) -> None:
    shown = run_cli("data", "preview", pairs, "--model", base, "--rows", 1)
    assert (shown.code, shown.err) == (0, "")
    assert "row 1, chosen" in shown.out
    assert "row 1, rejected" in shown.out
    assert "row 2" not in shown.out
    assert "\x1b" not in shown.out
    lines = [line.replace("│", "") for line in shown.out.splitlines()]
    assert "<|user|>hello⏎world<|end|><|assistant|>⟦yes·\\u{1b}[31m·you<|end|>⟧" in lines
    assert "<|user|>hello⏎world<|end|><|assistant|>⟦no<|end|>⟧" in lines


def test_user_mistakes_are_one_line_and_code_2(
    base: Path, pairs: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps({**ROW, "chosen": ROW["rejected"]}) + "\n")
    mistakes = [
        ("model", "new", base, "--text", pairs),
        ("model", "new", tmp_path / "m", "--text", tmp_path / "empty.txt"),
        ("model", "new", tmp_path / "m", "--text", tmp_path / "missing.txt"),
        ("model", "new", tmp_path / "m", "--text", pairs, "--preset", "huge"),
        ("model", "show", tmp_path),
        ("data", "preview", pairs, "--model", tmp_path / "nothing"),
        ("data", "preview", tmp_path / "bad.jsonl", "--model", base),
    ]
    for arguments in mistakes:
        ran = run_cli(*arguments)
        assert ran.code == 2
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("error: ")
    assert not (tmp_path / "m").exists()
