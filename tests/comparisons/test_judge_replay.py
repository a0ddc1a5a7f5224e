"""The recorded judges of LLMBar through the whole path, without a network."""

import importlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from preftune.comparisons.judging.calls import CallLog
from preftune.comparisons.judging.panel import Outcome, agreement_matrix, judge_pairs, outcomes
from preftune.comparisons.judging.panel_run import run_panel
from preftune.comparisons.judging.replay import ReplayClient, replay_of
from preftune.comparisons.judging.rubric import Rubric
from preftune.comparisons.judging.run import (
    Judged,
    JudgeSettings,
    judge_comparisons,
    refuse_failures,
    refuse_unparsed,
)
from preftune.comparisons.judging.verdict import from_text
from preftune.errors import DataError, HealthError
from preftune.types import Comparison, Judgment

LAST_LINE = Rubric(
    name="llmbar",
    instructions="Say which output follows the instruction.",
    criteria=("It does what the instruction says.",),
    verdict_pattern=r"(?s:.*\n)?(?P<first>Output \(a\))|(?s:.*\n)?(?P<second>Output \(b\))",
)
# reasons, then the sentence that was asked for; the other output may be called better nowhere
LAST_SENTENCE = replace(
    LAST_LINE,
    verdict_pattern=(
        r"(?s)(?!.*Output \(b\) is better).*(?:, |[.:]\s+|\n)(?P<first>Output \(a\)) is better\."
        r"|(?s:(?!.*Output \(a\) is better).*(?:, |[.:]\s+|\n))(?P<second>Output \(b\)) is better\."
    ),
)
KNOWN = {  # order 12, order 21, self, right in both, score, first place
    "GPT-4/Vanilla_NoRules": (0.773077, 0.780769, 0.923077, 0.738462, 0.776923, 0.5038),
    "GPT-4/Vanilla": (0.850000, 0.876923, 0.919231, 0.823077, 0.863462, 0.5096),
    "GPT-4/CoT": (0.826923, 0.811538, 0.876923, 0.757692, 0.819231, 0.5231),
    "GPT-4/Metrics_Reference": (0.888462, 0.896154, 0.923077, 0.853846, 0.892308, 0.5192),
    "PaLM2/Vanilla": (0.676923, 0.703846, 0.726923, 0.557692, 0.694231, 0.5601),
    "ChatGPT/Vanilla": (0.411538, 0.392308, 0.634615, 0.219231, 0.401923, 0.6596),
    "Falcon/Vanilla": (0.569231, 0.569231, 0.407692, 0.273077, 0.569231, 0.7885),
}
CLOSE = 1e-3


@pytest.fixture(scope="module")
def log(shared_data: Path) -> tuple[list[Comparison], list[Judgment]]:
    """Comparisons in both orders, and every judgment of the set."""
    module = importlib.import_module("import_llmbar")
    records = [found.record for found in module.records(shared_data / "llmbar")]
    return (
        [record for record in records if isinstance(record, Comparison)],
        [record for record in records if isinstance(record, Judgment)],
    )


Log = tuple[list[Comparison], list[Judgment]]


def replayed(log: Log, judge: str, path: Path, rubric: Rubric = LAST_LINE) -> Judged:
    with CallLog(path / "calls.jsonl") as calls:
        return judge_comparisons(log[0], replay_of(log[1], judge), rubric, JudgeSettings(), calls)


@pytest.mark.parametrize("judge", KNOWN)
def test_known_answers_of_the_replayed_judges(log: Log, judge: str, tmp_path: Path) -> None:
    rubric = LAST_SENTENCE if judge.endswith("CoT") else LAST_LINE
    found = replayed(log, judge, tmp_path, rubric)
    refuse_failures(found)
    refuse_unparsed(found, most=0.05)
    gold = {j.comparison_id: j.choice for j in log[1] if j.rater.kind == "human"}
    by_order: dict[str, dict[bool, int | None]] = defaultdict(dict)
    for j in found.judgments:
        swapped = j.comparison_id.endswith("~swapped")
        turned = j.choice if j.choice is None else j.choice ^ swapped
        by_order[j.comparison_id.removesuffix("~swapped")][swapped] = turned
    said = outcomes(found.judgments)[judge]
    right: dict[str, Outcome] = {c: ("first", "second")[g or 0] for c, g in gold.items()}
    settled = [c for c in said if said[c] in ("first", "second")]
    both = sum(said[c] == right[c] for c in settled)
    first = [j.choice == 0 for j in found.judgments if j.choice is not None]
    figures = (
        sum(by_order[c][False] == gold[c] for c in gold) / 260,
        sum(by_order[c][True] == gold[c] for c in gold) / 260,
        len(settled) / 260,
        both / 260,
        (both + (260 - len(settled)) / 2) / 260,
        sum(first) / len(first),
    )
    assert figures == pytest.approx(KNOWN[judge], abs=CLOSE)


# PaLM2's chain-of-thought runs state the verdict first and again at the end of a paragraph, and in
# 37 of them the recorded winner is not the one that the text names both times. A verdict that is no
# line of its own is not parsed there.
SENTENCES = {"CoT": ("GPT-4", "ChatGPT", "ChatGPT-0301", "LLaMA2", "Falcon")}


def test_no_verdict_contradicts_the_log_and_nothing_unparsed_is_scored(log: Log) -> None:
    wrong, parsed, silent = [], 0, 0
    for j in log[1]:
        if j.rater.kind != "judge" or not j.why:
            continue
        judge, _, prompting = j.rater.id.partition("/")
        rubric = LAST_SENTENCE if judge in SENTENCES.get(prompting, ()) else LAST_LINE
        found = from_text(j.why, rubric)
        if found is None:
            continue
        parsed += 1
        silent += j.kind == "unparsed"
        if found.choice != j.choice:
            wrong.append((j.rater.id, j.comparison_id))
    assert wrong == []
    assert silent == 0
    assert parsed > 11_000


def test_recorded_parse_failures_stay_unparsed_in_every_outcome(log: Log, tmp_path: Path) -> None:
    judge = "PaLM2/Vanilla_NoRules"
    recorded = {j.comparison_id for j in log[1] if j.rater.id == judge and j.kind == "unparsed"}
    found = replayed(log, judge, tmp_path)
    assert {j.comparison_id for j in found.unparsed} | set(found.failures) == recorded
    assert len(recorded) == 8
    with pytest.raises(HealthError, match="8 of 520 answers hold no verdict"):
        refuse_unparsed(found, most=0.01)


def test_a_panel_agrees_as_its_outcomes_do_and_gives_pairs(log: Log, tmp_path: Path) -> None:
    judges = ["GPT-4/Vanilla", "GPT-4/Metrics_Reference", "ChatGPT/Vanilla"]
    run = run_panel(
        log[0],
        [replay_of(log[1], judge) for judge in judges],
        LAST_LINE,
        JudgeSettings(),
        out=tmp_path / "judgments.jsonl",
        unqualified=True,
    )
    said = [outcomes(one.judgments)[one.judge] for one in run.judged]
    strong, weak = agreement_matrix(dict(zip(judges, said, strict=True)))[:2]
    assert strong.share > 0.85 > weak.share
    assert run.report.for_people == sum(
        any(s[c.id] == "flip" for s in said) for c in run.comparisons
    )
    alarms = {(sign.kind, sign.who) for sign in run.report.alarms}
    assert ("position", "ChatGPT/Vanilla") in alarms
    assert ("position", "GPT-4/Vanilla") not in alarms
    assert all("(unqualified)" in j.guideline for one in run.judged for j in one.judgments)
    joined = judge_pairs(
        [c for one in run.judged for c in one.comparisons],
        [j for one in run.judged for j in one.judgments],
        dimension="llmbar",
    )
    assert {round(pair.weight, 3) for pair in joined.pairs} <= {0.333, 0.667, 1.0}
    assert len(joined.pairs) + len(joined.ties) == 260
    assert {p.name for p in tmp_path.iterdir()} == {
        *("judgments.jsonl", "judgments.calls.jsonl", "judgments.people.jsonl"),
        *("judgments.report.json", "judgments.bias.svg"),
    }


def test_a_judge_that_is_not_in_the_log_is_named(log: Log) -> None:
    with pytest.raises(DataError, match=r"'GPT-5'\. Judges in the log: ChatGPT-0301/CoT"):
        replay_of(log[1], "GPT-5")


def test_what_was_not_recorded_is_a_failure(log: Log, tmp_path: Path) -> None:
    client = ReplayClient("empty", {})
    with CallLog(tmp_path / "calls.jsonl") as calls:
        found = judge_comparisons(log[0][:2], client, LAST_LINE, JudgeSettings(), calls)
    assert set(found.failures.values()) == {"the log has no verdict here"}
    assert found.judgments == []
