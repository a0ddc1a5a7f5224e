import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.comparisons.judge_world import (
    LABELS,
    always_first,
    gullible,
    honest,
    judge_server,
    people_on,
    response,
    summed,
)
from tests.conftest import Ran

from preftune.comparisons.judging.panel_run import every_two
from preftune.datasets.read import read_comparisons, read_pairs
from preftune.datasets.write import write_records
from preftune.errors import DataError
from preftune.models.new import new_model
from preftune.types import Record, make_prompt, text_of, user

Cli = Callable[..., Ran]
SUMS = [summed(n) for n in range(10, 110)]


@pytest.fixture
def rubric(tmp_path: Path) -> Path:
    path = tmp_path / "sums.yaml"
    path.write_text("name: sums\ninstructions: Say which is right.\ncriteria: [It is correct.]\n")
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    write_records(path, SUMS)
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    rows: list[Record] = [*SUMS, *map(people_on, SUMS)]
    write_records(path, rows)
    return path


def at(url: str, rubric: Path, **flags: Any) -> list[str]:
    given = {"url": url, "allow-url": url, "model": "judge", "rubric": rubric, **flags}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def test_qualify_then_judge_then_pairs(
    tmp_path: Path, run_cli: Cli, labelled: Path, sums: Path, rubric: Path
) -> None:
    card, out, pairs = (tmp_path / name for name in ("card.json", "said.jsonl", "pairs.jsonl"))
    with judge_server() as url:
        prices = {"price-in": 1.0, "price-out": 2.0, "cost-cap": 5.0}
        ran = run_cli("judge", "qualify", labelled, *at(url, rubric, out=card, **prices))
        assert (ran.code, ran.err) == (0, "")
        assert "agreement         100.0% of 100 (96.3% to 100.0%)" in ran.out
        assert "to come: 600 requests" in ran.out
        judged = ("judge", sums, *at(url, rubric, out=out, card=card, pairs=pairs))
        ran = run_cli(*judged)
        assert (ran.code, ran.err) == (0, "")
        assert "to come: 200 requests" in ran.out
        again = run_cli(*judged)
        assert "to come: 0 requests" in again.out
    assert "100 pairs" in ran.out
    shown, said = read_comparisons(out)
    assert (len(shown), len(said)) == (200, 200)
    assert {j.guideline.startswith("sums@") for j in said} == {True}
    right = read_pairs(pairs)
    assert {pair.provenance.chosen_generator for pair in right} == {"good"}
    assert {pair.weight for pair in right} == {1.0}
    ledger = [json.loads(line) for line in (tmp_path / "card.ledger").read_text().splitlines()]
    assert sum(row["usd"] for row in ledger if row["state"] == "done") == pytest.approx(
        600 * (400 * 1.0 + 1 * 2.0) / 1e6
    )


def test_a_judge_that_fails_gets_a_card_and_exit_code_1(
    tmp_path: Path, run_cli: Cli, labelled: Path, sums: Path, rubric: Path
) -> None:
    card = tmp_path / "card.json"
    with judge_server(gullible) as url:
        ran = run_cli("judge", "qualify", labelled, *at(url, rubric, out=card))
        assert ran.code == 1
        assert "attacks that win: fail" in ran.out
        refused = run_cli("judge", sums, *at(url, rubric, out=tmp_path / "x.jsonl", card=card))
    assert refused.code == 2
    assert "may not label" in refused.err
    assert (tmp_path / "card.md").exists()
    assert not (tmp_path / "x.jsonl").exists()


def test_without_a_card_it_is_refused_or_says_so_on_every_judgment(
    tmp_path: Path, run_cli: Cli, sums: Path, rubric: Path
) -> None:
    out = tmp_path / "said.jsonl"
    with judge_server(always_first) as url:
        refused = run_cli("judge", sums, *at(url, rubric, out=out))
        assert (refused.code, out.exists()) == (2, False)
        assert "no card. Run: preftune judge qualify" in refused.err
        ran = run_cli("judge", sums, *at(url, rubric, out=out), "--unqualified")
    assert ran.code == 0
    assert {j.guideline for j in read_comparisons(out)[1]} == {f"sums@{LABELS.hash} (unqualified)"}
    report = json.loads((tmp_path / "said.report.json").read_text())
    assert report["guideline"].endswith("(unqualified)")
    assert {(s["kind"], s["alarm"]) for s in report["signs"]} >= {
        ("position", True),
        ("flip", True),
    }
    assert "100 flips for people to settle" in ran.out
    assert [c.id for c in read_comparisons(tmp_path / "said.people.jsonl")[0]] == [
        c.id for c in SUMS
    ]
    assert (tmp_path / "said.bias.svg").read_text().startswith("<?xml")


def test_a_cap_below_the_estimate_sends_nothing(
    tmp_path: Path, run_cli: Cli, sums: Path, rubric: Path
) -> None:
    asked: list[str] = []

    def counting(question: str, first: str, second: str) -> str:
        asked.append(question)
        return honest(question, first, second)

    with judge_server(counting) as url:
        prices = {"price-in": 5.0, "price-out": 5.0, "cost-cap": 0.01}
        flags = at(url, rubric, out=tmp_path / "x.jsonl", **prices)
        ran = run_cli("judge", sums, *flags, "--unqualified")
    assert ran.code == 2
    assert "cost cap 0.01 USD" in ran.err
    assert asked == []


def test_a_chatty_judge_ends_the_run_and_keeps_the_answers(
    tmp_path: Path, run_cli: Cli, sums: Path, rubric: Path
) -> None:
    out = tmp_path / "said.jsonl"
    with judge_server(lambda *texts: f"\x1b[31m{honest(*texts)}!") as url:
        ran = run_cli("judge", sums, *at(url, rubric, out=out), "--unqualified")
    assert ran.code == 2
    assert "200 of 200 answers hold no verdict (100.0%, allowed 5.0%)" in ran.err
    assert "\x1b" not in ran.err
    assert not out.exists()
    assert len((tmp_path / "said.calls.jsonl").read_text().splitlines()) == 201


def test_what_a_judge_said_can_be_replayed(
    tmp_path: Path, run_cli: Cli, sums: Path, rubric: Path
) -> None:
    out, again = tmp_path / "said.jsonl", tmp_path / "again.jsonl"
    with judge_server() as url:
        run_cli("judge", sums, *at(url, rubric, out=out), "--unqualified")
    name = read_comparisons(out)[1][0].rater.id
    ran = run_cli(
        *("judge", sums, "--replay", out, "--judge", name, "--rubric", rubric),
        *("--unqualified", "--out", again),
    )
    assert (ran.code, ran.err) == (0, "")
    assert again.read_bytes() == out.read_bytes()


def test_rules_and_scores_judge_too(tmp_path: Path, run_cli: Cli, sums: Path) -> None:
    short, scored, out = (tmp_path / name for name in ("short.jsonl", "scores.jsonl", "s.jsonl"))
    ran = run_cli("judge", sums, "--rule", "length", "--prefer", "lower", "--out", short)
    assert (ran.code, ran.err) == (0, "")
    assert "100 judgments by length lower" in ran.out
    rows = [
        {"response_id": r.id, "prompt_id": r.prompt_id, "score": float(r.generator == "good")}
        for c in SUMS
        for r in c.responses
    ]
    scored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = run_cli("judge", sums, "--scores", scored, "--name", "reward", "--out", out)
    assert (ran.code, ran.err) == (0, "")
    shown, said = read_comparisons(out)
    best = {c.id: [r.generator for r in c.responses].index("good") for c in shown}
    assert {j.comparison_id: j.choice for j in said} == best
    assert {(j.rater.id, j.scores[j.choice or 0]) for j in said} == {("reward", 1.0)}
    rows[5]["score"] = 0.5
    scored.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[4] | {"score": 9}]))
    ran = run_cli("judge", sums, "--scores", scored, "--out", out)
    assert (ran.code, "scores.jsonl:201: another score of" in ran.err) == (2, True)
    scored.write_text(json.dumps(rows[0]) + "\n")
    ran = run_cli("judge", sums, "--scores", scored, "--out", out)
    assert (ran.code, "no score of response" in ran.err) == (2, True)


def test_two_kinds_of_judge_are_refused(tmp_path: Path, run_cli: Cli, sums: Path) -> None:
    ran = run_cli("judge", sums, "--rule", "length", "--scores", sums, "--out", tmp_path / "x")
    assert (ran.code, "--rule and --scores" in ran.err) == (2, True)
    ran = run_cli("judge", sums, "--rule", "length", "--url", "https://x", "--out", tmp_path / "x")
    assert (ran.code, "No such option" in ran.err) == (2, True)


def test_rlaif_judges_every_two_responses_and_goes_on(
    tmp_path: Path, run_cli: Cli, rubric: Path
) -> None:
    prompts, answers, out = (tmp_path / n for n in ("p.jsonl", "r.jsonl", "pairs.jsonl"))
    some = SUMS[:5]
    write_records(prompts, [c.prompt for c in some])
    third = [response(c.prompt, "I don't know.", "shy") for c in some]
    write_records(answers, [*(r for c in some for r in c.responses), *third])
    with judge_server() as url:
        flags = {"prompts": prompts, "responses": answers, "judge-url": url, "allow-url": url}
        flags |= {"judge-model": "judge", "rubric": rubric, "out": out}
        given = [part for name, value in flags.items() for part in (f"--{name}", value)]
        ran = run_cli("rlaif", *given, "--unqualified")
        assert (ran.code, ran.err) == (0, "")
        first = out.read_bytes()
        ran = run_cli("rlaif", *given, "--unqualified")
        assert "to come: 0 requests" in ran.out
    assert out.read_bytes() == first
    pairs = read_pairs(out)
    assert "10 pairs" in ran.out
    assert "5 ties and flips" in ran.out  # wrong against shy: neither is right, the place decides
    assert {pair.provenance.chosen_generator for pair in pairs} == {"good"}
    refused = run_cli("rlaif", *given, "--policy", "x")
    assert (refused.code, "--policy or --responses" in refused.err) == (2, True)


def longer(_question: str, first: str, second: str) -> str:
    return "A" if len(first) >= len(second) else "B"


def test_rlaif_samples_from_a_policy_and_goes_on(
    tmp_path: Path, run_cli: Cli, rubric: Path
) -> None:
    policy = new_model(
        tmp_path / "policy",
        preset="tiny",
        texts=["What is ten plus seven ? It is seventeen ."],
        vocab_size=64,
        seed=0,
        tokenizer="words",
    )
    prompts, out = tmp_path / "p.jsonl", tmp_path / "pairs.jsonl"
    write_records(prompts, [make_prompt(user(f"What is {n} ?")) for n in ("ten", "seven")])
    with judge_server(longer) as url:
        given = (
            *("rlaif", "--prompts", prompts, "--policy", policy, "--judge-url", url),
            *("--allow-url", url, "--judge-model", "judge", "--rubric", rubric, "--out", out),
            *("--unqualified", "--max-new-tokens", 8),
        )
        ran = run_cli(*given)
        assert (ran.code, ran.err) == (0, "")
        assert "4 responses to 2 prompts" in ran.out
        first = out.read_bytes()
        assert "to come: 0 requests" in run_cli(*given).out
    assert out.read_bytes() == first
    pairs = read_pairs(out)
    assert len(pairs) == 2
    assert all(len(text_of(p.chosen)) > len(text_of(p.rejected)) for p in pairs)


def test_every_two_needs_two_responses_and_their_prompt() -> None:
    one = SUMS[0]
    assert len(every_two([one.prompt], one.responses)) == 1
    with pytest.raises(DataError, match="1 prompts have one response"):
        every_two([one.prompt], one.responses[:1])
    with pytest.raises(DataError, match="not among the prompts"):
        every_two([SUMS[1].prompt], one.responses)
    with pytest.raises(DataError, match="no response at all"):
        every_two([one.prompt], [])
