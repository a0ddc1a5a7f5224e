"""`preftune data import` and `convert` as a user runs them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.cli.data import FORMATS
from preftune.datasets import read_pairs
from preftune.datasets.formats.table import NAMES

HH = "harmless-base-test.jsonl.gz"
GOOD = {"prompt": "Q", "chosen": "yes", "rejected": "no", "strength": 2}


def rows(path: Path, *found: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def test_import_of_real_hh_says_what_is_odd(
    run_cli: Callable[..., Any], shared_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pairs.jsonl"
    ran = run_cli("data", "import", shared_data / "hh-harmless" / HH, "--out", out, "--skip-bad")
    assert ran.code == 0
    assert "format   hh (detected)" in ran.out
    assert "rows     1,548" in ran.out
    assert "odd      3 broken_prefix: lines 855, 1138, 1310" in ran.out
    assert "odd      5 odd_turns: lines 455, 520, 855, 1138, 1310" in ran.out
    assert "refused  3 empty_response: lines 70, 352, 752" in ran.out
    assert f"written  1,545 records to {out}" in ran.out
    assert len(read_pairs(out)) == 1545
    refused = (tmp_path / "pairs.refused.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in refused] == [70, 352, 752]


def test_import_stops_at_the_first_bad_row(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    source = rows(tmp_path / "a.jsonl", GOOD, {**GOOD, "rejected": "yes"})
    ran = run_cli("data", "import", source, "--out", tmp_path / "out.jsonl")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith(f"error: {source}:2: ")
    assert "chosen equals rejected. Record a tie instead. Or leave bad rows out" in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_convert_says_what_is_lost(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    source, out = rows(tmp_path / "a.jsonl", GOOD), tmp_path / "out.jsonl.gz"
    ran = run_cli("data", "convert", source, "--to", "hh", "--out", out, "--format", "trl-text")
    assert (ran.code, ran.err) == (0, "")
    assert "format   trl-text (as named)" in ran.out
    assert "not held 1 strength" in ran.out
    assert json.loads(gzip.decompress(out.read_bytes())) == {
        "chosen": "\n\nHuman: Q\n\nAssistant: yes",
        "rejected": "\n\nHuman: Q\n\nAssistant: no",
    }


@pytest.mark.parametrize("command", ["import", "convert"])
def test_a_missing_file_is_one_line(
    run_cli: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    to = ["--to", "trl"] if command == "convert" else []
    ran = run_cli("data", command, tmp_path / "gone", "--out", tmp_path / "out", *to)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {tmp_path / 'gone'}: no such file. Check the path.\n"


def test_help_names_all_formats() -> None:
    assert FORMATS.split(", ") == list(NAMES)


def test_names_in_the_data_cannot_steer_the_terminal(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    for row in ({"\x1b[31mred": 1}, {**GOOD, "id": "\x1b[31m\nred", "strength": 9}):
        source = rows(tmp_path / "a.jsonl", row)
        ran = run_cli("data", "import", source, "--out", tmp_path / "out.jsonl")
        assert ran.code == 2
        assert "\\x1b[31m" in ran.err
        assert ran.err.count("\n") == 1
