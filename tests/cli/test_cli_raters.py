"""`preftune raters`: the table, the flags, what would change, and the files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.datasets import write_records
from preftune.types import Comparison, Judgment, Rater, Response, assistant, make_prompt, user

Cli = Callable[..., Any]
RATERS = {"ann": 0.9, "bob": 0.85, "cid": 0.8, "\x1b[31modd[/]": 0.1}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    records: list[Comparison | Judgment] = []
    for n in range(50):
        prompt = make_prompt(user(f"question {n}"))
        responses = tuple(
            Response(id=f"{n}-{k}", prompt_id=prompt.id, messages=(assistant(text),))
            for k, text in enumerate(("yes", "no , because"))
        )
        records.append(Comparison(id=f"c{n}", prompt=prompt, responses=responses))
        truth = int(rng.integers(2))
        for rater, accuracy in (*RATERS.items(), ("expert", 1.0)):
            choice = truth if rng.random() < accuracy else 1 - truth
            records.append(
                Judgment(
                    id=f"j{n}-{rater}",
                    comparison_id=f"c{n}",
                    kind="binary",
                    choice=choice,
                    rater=Rater(id=rater, kind="human"),
                    seconds=20.0,
                )
            )
    path = tmp_path_factory.mktemp("raters") / "judged.jsonl"
    write_records(path, records, format="preftune")
    return path


def test_raters_prints_agreement_table_flags_and_leans(run_cli: Cli, judged: Path) -> None:
    ran = run_cli("raters", judged, "--gold", "expert")
    assert (ran.code, ran.err) == (0, "")
    assert "4 human" in ran.out
    assert "pandalm" in ran.out
    assert "to look at: 1 flags\n  \\x1b[31modd[/]: adversary: against the other raters" in ran.out
    assert "human: the first shown wins" in ran.out
    assert "human: the longer wins" in ran.out
    assert "\x1b" not in ran.out


def test_without_shows_what_would_change(run_cli: Cli, judged: Path) -> None:
    ran = run_cli("raters", judged, "--gold", "expert", "--without", "\x1b[31modd[/]")
    assert "without \\x1b[31modd[/] (50 judgments):\n  pairs gained" in ran.out
    before, after = ran.out.split("alpha of who is better: ")[1].split(" before, ")
    assert float(after.split()[0]) > float(before) + 0.2


def test_most_limits_the_table_and_says_so(run_cli: Cli, judged: Path) -> None:
    ran = run_cli("raters", judged, "--gold", "expert", "--most", "2")
    assert "and 2 more raters (--most)" in ran.out
    assert "cid" not in ran.out


def test_out_writes_the_plot_and_every_row(run_cli: Cli, judged: Path, tmp_path: Path) -> None:
    ran = run_cli("raters", judged, "--out", tmp_path / "look")
    assert ran.code == 0
    written = json.loads((tmp_path / "look" / "raters.json").read_text())
    assert {row["rater"] for row in written["rows"]} == {*RATERS, "expert"}
    assert set(written["model"]["skill"]) == {*RATERS, "expert"}
    assert "<svg" in (tmp_path / "look" / "raters.svg").read_text()


def test_a_rater_that_is_not_there_is_one_line(run_cli: Cli, judged: Path) -> None:
    ran = run_cli("raters", judged, "--gold", "ghost")
    assert ran.code == 2
    assert ran.err == "error: rater ghost: no verdict, so there is no gold. Check the id.\n"
