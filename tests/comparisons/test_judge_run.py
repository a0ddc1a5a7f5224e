from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.comparisons.judge_world import (
    LABELS,
    ScriptedJudge,
    always_first,
    honest,
    response,
    summed,
)

from preftune.comparisons.judging.calls import CallLog
from preftune.comparisons.judging.panel import outcomes
from preftune.comparisons.judging.rubric import Rubric
from preftune.comparisons.judging.run import (
    Judged,
    JudgeSettings,
    judge_comparisons,
    orders,
    plan_calls,
    refuse_failures,
    refuse_unparsed,
)
from preftune.errors import DataError, HealthError
from preftune.types import Comparison

SUMS = [summed(n) for n in range(4)]


def judged(
    path: Path,
    judge: ScriptedJudge,
    comparisons: list[Comparison] = SUMS,
    rubric: Rubric = LABELS,
    mark: str = "",
    **settings: Any,
) -> Judged:
    with CallLog(path / "calls.jsonl") as calls:
        return judge_comparisons(
            comparisons, judge, rubric, JudgeSettings(**settings), calls, mark=mark
        )


def test_both_orders_are_asked_and_an_honest_judge_is_right(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    found = judged(tmp_path, judge)
    assert len(judge.asked) == len(found.judgments) == 8
    assert outcomes(found.judgments) == {
        "judge@desk": {"sum-0": "first", "sum-1": "second", "sum-2": "first", "sum-3": "second"}
    }
    one = found.judgments[0]
    assert (one.rater.id, one.rater.kind, one.dimension) == ("judge@desk", "judge", "sums")
    assert (one.guideline, one.said, one.why, one.scores) == (f"sums@{LABELS.hash}", "A", "", ())
    assert (found.tally.prompt_tokens, found.tally.completion_tokens) == (800, 8)


def test_a_rerun_asks_nothing_and_gives_the_same_judgments(tmp_path: Path) -> None:
    first = judged(tmp_path, ScriptedJudge())
    again = ScriptedJudge()
    second = judged(tmp_path, again)
    assert not again.asked
    assert second.judgments == first.judgments
    assert (second.tally.asked, second.tally.reused) == (0, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other@desk"},
        {"temperature": 0.5},
        {"seed": 1},
        {"rubric": replace(LABELS, ties=True)},
        {"rubric": replace(LABELS, criteria=("It is neat.",))},
        {"tail": "!"},
    ],
)
def test_whatever_matters_is_part_of_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    judged(tmp_path, ScriptedJudge(), [summed(2)])
    name, tail = change.get("name", "judge@desk"), change.get("tail", "")
    again = ScriptedJudge(name=name)
    rest = {key: value for key, value in change.items() if key not in ("name", "tail")}
    judged(tmp_path, again, [summed(2, tail=tail)], **rest)
    assert len(again.asked) == 2


def test_a_swap_among_the_comparisons_is_the_same_question(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    found = judged(tmp_path, judge, [summed(2).swap(), summed(2)])
    assert [c.id for c in found.comparisons] == ["sum-2", "sum-2~swapped"]
    assert len(judge.asked) == 2


def test_a_judge_that_goes_by_place_flips_everywhere(tmp_path: Path) -> None:
    found = judged(tmp_path, ScriptedJudge(say=always_first))
    assert set(outcomes(found.judgments)["judge@desk"].values()) == {"flip"}
    assert [j.choice for j in found.judgments] == [0] * 8


def test_answers_without_a_verdict_are_kept_counted_and_asked_again(tmp_path: Path) -> None:
    chatty = ScriptedJudge(say=lambda *texts: f"I think {honest(*texts)}")
    first = judged(tmp_path, chatty)
    assert [j.kind for j in first.judgments] == ["unparsed"] * 8
    assert first.judgments[0].why == "I think A"
    with pytest.raises(HealthError, match=r"8 of 8 answers hold no verdict \(100.0%, allowed 5.0%"):
        refuse_unparsed(first, most=0.05)
    refuse_unparsed(first, most=1.0)
    cured = ScriptedJudge()
    second = judged(tmp_path, cured)
    assert len(cured.asked) == 8
    assert not second.unparsed


def test_failed_calls_are_named_and_asked_again(tmp_path: Path) -> None:
    first = judged(tmp_path, ScriptedJudge(fail={3}))
    assert first.failures == {"sum-1": "the line is down"}
    assert len(first.judgments) == 7
    with pytest.raises(HealthError, match=r"1 of 8 questions.*sum-1: the line is down"):
        refuse_failures(first)
    again = ScriptedJudge()
    second = judged(tmp_path, again)
    assert [request.key.split("/")[0] for request in again.asked] == ["sum-1"]
    refuse_failures(second)


def test_the_judges_own_answers_are_left_out_unless_kept(tmp_path: Path) -> None:
    vain = ScriptedJudge(name="Good@elsewhere")  # the model of every right answer
    found = judged(tmp_path, vain)
    assert found.self_judged == ["sum-0", "sum-1", "sum-2", "sum-3"]
    assert not vain.asked
    kept = judged(tmp_path, vain, keep_self_judged=True)
    assert len(kept.judgments) == 8
    assert kept.self_judged == found.self_judged


def test_equal_answers_are_not_asked_about(tmp_path: Path) -> None:
    one = summed(2)
    same = replace(one, responses=(one.responses[0], replace(one.responses[0], id="other")))
    judge = ScriptedJudge()
    found = judged(tmp_path, judge, [same])
    assert (found.identical, judge.asked, found.judgments) == (["sum-2"], [], [])


def test_one_order_is_drawn_by_seed_and_id_alone(tmp_path: Path) -> None:
    many = [summed(n) for n in range(100)]
    lone = JudgeSettings(both_orders=False, seed=3)
    swapped = [orders(c, lone)[0].id.endswith("~swapped") for c in many]
    assert swapped == [orders(c, lone)[0].id.endswith("~swapped") for c in many]
    assert 30 < sum(swapped) < 70
    assert len(judged(tmp_path, ScriptedJudge(), both_orders=False).judgments) == 4


def test_log_probabilities_become_the_marks_of_a_judgment(tmp_path: Path) -> None:
    judge = ScriptedJudge(logprobs=(("B", -0.2), ("A", -1.8)))
    found = judged(tmp_path, judge, [summed(2)])
    # e^-1.8 / (e^-1.8 + e^-0.2) = 1 / (1 + e^1.6) = .167982
    assert [j.scores for j in found.judgments] == [
        pytest.approx((0.167982, 0.832018), abs=1e-6)
    ] * 2
    assert [j.choice for j in found.judgments] == [1, 1]
    assert [request.top_logprobs for request in judge.asked] == [10, 10]


def test_notes_are_asked_once_a_prompt_and_stand_in_both_orders(tmp_path: Path) -> None:
    rubric = replace(LABELS, steps=("metrics", "reference"))
    judge = ScriptedJudge()
    found = judged(tmp_path, judge, [summed(2)], rubric)
    assert [request.key.split("/")[1] for request in judge.asked] == [
        *("metrics", "reference", "verdict", "verdict")
    ]
    assert all("Is the sum right?" in r.messages[1].content for r in judge.asked[2:])
    assert [j.choice for j in found.judgments] == [0, 1]


def test_without_its_notes_a_comparison_is_a_failure(tmp_path: Path) -> None:
    judge = ScriptedJudge(fail={1})
    found = judged(tmp_path, judge, [summed(2)], replace(LABELS, steps=("metrics",)))
    assert found.failures == {
        "sum-2": "the line is down",
        "sum-2~swapped": "the line is down",
    }
    assert len(judge.asked) == 1


def test_the_plan_is_what_is_asked(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    with CallLog(tmp_path / "calls.jsonl") as calls:
        planned = plan_calls(SUMS, judge, LABELS, JudgeSettings(), calls)
        judge_comparisons(SUMS[:1], judge, LABELS, JudgeSettings(), calls)
        rest = plan_calls(SUMS, judge, LABELS, JudgeSettings(), calls)
    assert judge.asked == planned[:2]
    assert rest == planned[2:]


def test_planned_notes_count_at_full_length(tmp_path: Path) -> None:
    rubric = replace(LABELS, steps=("reference",))
    with CallLog(tmp_path / "calls.jsonl") as calls:
        planned = plan_calls(
            [summed(2)], ScriptedJudge(), rubric, JudgeSettings(max_tokens=50), calls
        )
    assert [request.max_tokens for request in planned] == [50, 8, 8]
    assert all("x" * 200 in request.messages[1].content for request in planned[1:])


def test_three_responses_are_refused(tmp_path: Path) -> None:
    one = summed(2)
    three = replace(one, responses=(*one.responses, response(one.prompt, "It is 11.")))
    with pytest.raises(DataError, match="sum-2: 3 responses"):
        judged(tmp_path, ScriptedJudge(), [three])


def test_the_mark_stands_on_every_judgment(tmp_path: Path) -> None:
    found = judged(tmp_path, ScriptedJudge(), mark="(unqualified)")
    assert {j.guideline for j in found.judgments} == {f"sums@{LABELS.hash} (unqualified)"}


def test_what_was_made_harmless_is_counted(tmp_path: Path) -> None:
    found = judged(tmp_path, ScriptedJudge(), [summed(2, tail=" <|im_end|>")])
    assert found.spelt_out == {"special token": 2}  # once in either order
