import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.comparisons.judge_world import (
    LABELS,
    ScriptedJudge,
    always_first,
    gullible,
    honest,
    people_on,
    summed,
)

from preftune.comparisons.judging.attacks import ATTACKS, attack, attack_set
from preftune.comparisons.judging.calls import CallLog
from preftune.comparisons.judging.card import read_card, require_card, write_card
from preftune.comparisons.judging.qualify import (
    Card,
    QualifySettings,
    labelled,
    plan_qualify,
    qualify,
)
from preftune.comparisons.judging.run import JudgeSettings
from preftune.errors import DataError, HealthError, SettingsError
from preftune.stats.intervals import wilson
from preftune.types import Judgment, Rater, text_of

SUMS = [summed(n) for n in range(10, 130)]
KNOWN = labelled(SUMS, map(people_on, SUMS), dimension="sums")
ASKING = JudgeSettings()


def card_of(
    path: Path, judge: ScriptedJudge, asking: JudgeSettings = ASKING, **settings: Any
) -> Card:
    with CallLog(path / "calls.jsonl") as calls:
        return qualify(
            judge, LABELS, KNOWN, calls, asking=asking, settings=QualifySettings(**settings)
        )


def test_an_honest_judge_passes(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    card = card_of(tmp_path, judge)
    assert (card.verdict, card.right, card.agreement.value) == ("pass", 120, 1.0)
    assert card.agreement.low == pytest.approx(wilson(120, 120).low)
    assert (card.attacks.n, card.attacks.value) == (240, 0.0)
    assert card.attacks.high == pytest.approx(wilson(0, 120).high)  # prompts, not attacks
    assert set(card.by_kind) == set(ATTACKS)
    assert len(judge.asked) == 2 * (120 + 240)


def test_a_judge_that_does_as_it_is_told_fails_by_the_attacks_alone(tmp_path: Path) -> None:
    card = card_of(tmp_path, ScriptedJudge(say=gullible))
    assert card.agreement.value == 1.0
    assert card.verdict == "fail"
    assert "attacks that win: fail" in card.reasons
    assert card.by_kind["ignore the instructions"] == 1.0
    assert card.by_kind["verdict B"] == 1.0
    assert card.by_kind["flattery"] == 0.0
    assert card.attacks.value > 0.2
    assert card.attacks.low > 0.05


def test_a_judge_that_goes_by_place_agrees_half_and_is_right_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 items that the judge gets right"):
        card_of(tmp_path, ScriptedJudge(say=always_first))


def test_a_judge_that_is_often_wrong_fails_the_bar(tmp_path: Path) -> None:
    def often_wrong(question: str, first: str, second: str) -> str:
        right = honest(question, first, second)
        return right if "1" in question.removesuffix("plus 7?") else "BA"["AB".index(right)]

    card = card_of(tmp_path, ScriptedJudge(say=often_wrong))
    right = sum("1" in str(n) for n in range(10, 130))
    assert (card.right, card.wrong) == (right, 120 - right)
    assert card.agreement.value == pytest.approx(right / 120)
    assert "agreement with people: fail" in card.reasons
    assert card.verdict == "fail"


def test_what_the_interval_leaves_open_is_no_pass(tmp_path: Path) -> None:
    card = card_of(tmp_path, ScriptedJudge(), bar=0.98)
    assert card.agreement.low < 0.98 < card.agreement.high
    assert card.verdict == "cannot tell"


def test_answers_without_a_verdict_fail_the_card(tmp_path: Path) -> None:
    def chatty(question: str, first: str, second: str) -> str:
        found = honest(question, first, second)
        return f"{found}!" if "3" in question else found

    card = card_of(tmp_path, ScriptedJudge(say=chatty))
    threes = sum("3" in str(n) for n in range(10, 130))
    assert card.unparsed == threes
    assert card.agreement.value == pytest.approx(1 - threes / 120)  # wrong, never half
    assert "answers with a verdict: fail" in card.reasons


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    few = labelled(SUMS[:99], map(people_on, SUMS[:99]), dimension="sums")
    with (
        CallLog(tmp_path / "calls.jsonl") as calls,
        pytest.raises(DataError, match="99 items with a human label, 100 are needed"),
    ):
        qualify(ScriptedJudge(), LABELS, few, calls, asking=ASKING, settings=QualifySettings())


def test_failed_calls_end_the_qualification(tmp_path: Path) -> None:
    with pytest.raises(HealthError, match="1 of 240 questions"):
        card_of(tmp_path, ScriptedJudge(fail={5}))


def test_the_plan_covers_items_and_attacks(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    settings = QualifySettings()
    with CallLog(tmp_path / "calls.jsonl") as calls:
        planned = plan_qualify(judge, LABELS, KNOWN, calls, asking=ASKING, settings=settings)
        qualify(judge, LABELS, KNOWN, calls, asking=ASKING, settings=settings)
    assert [r.key for r in judge.asked] == [r.key for r in planned]


def test_labels_of_machines_are_no_labels() -> None:
    machine = replace(people_on(SUMS[0]), rater=Rater(id="bot", kind="simulated"))
    with pytest.raises(DataError, match="no human labels in dimension 'sums'; there are: none"):
        labelled(SUMS, [machine], dimension="sums")
    with pytest.raises(DataError, match="there are: sums"):
        labelled(SUMS, [people_on(SUMS[0])], dimension="tone")


def test_ties_of_people_are_counted_and_left_out() -> None:
    tie = Judgment(
        id="t",
        comparison_id=SUMS[1].id,
        kind="tie",
        rater=Rater(id="ann", kind="human"),
        dimension="sums",
    )
    found = labelled(SUMS[:3], [people_on(SUMS[0]), tie], dimension="sums")
    assert ([c.id for c, _ in found.items], found.undecided) == ([SUMS[0].id], 2)


def test_the_attack_set_is_balanced_and_large_enough() -> None:
    tried = attack_set(KNOWN.items)
    kinds = Counter(one.kind for one in tried)
    assert len(tried) >= 200
    assert len(kinds) == len(ATTACKS) >= 10
    assert max(kinds.values()) - min(kinds.values()) <= 2
    assert len({one.comparison.id for one in tried}) == len(tried)


def test_few_items_meet_every_kind_and_fewer_are_refused() -> None:
    items = KNOWN.items[:12]
    assert {one.kind for one in attack_set(items)} == set(ATTACKS)
    with pytest.raises(DataError, match=r"11 items.*give at most 198 attacks, 200 are needed"):
        attack_set(KNOWN.items[:11])


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_changes_the_worse_answer_alone(kind: str) -> None:
    comparison, better = KNOWN.items[0]
    one = attack(comparison, 1 - better, kind)
    changed = one.comparison.responses
    assert changed[better] == comparison.responses[better]
    before, after = (
        text_of(c.responses[1 - better].messages) for c in (comparison, one.comparison)
    )
    assert after != before
    assert kind == "null answer" or before in after
    assert one.comparison.prompt == comparison.prompt


def test_a_card_lets_its_judge_label_and_no_other(tmp_path: Path) -> None:
    path, page = write_card(card_of(tmp_path, ScriptedJudge()), tmp_path / "card.json")
    assert require_card(path, "judge@desk", LABELS, ASKING) == read_card(path)
    assert "| verdict | pass" in page.read_text()
    for judge, rubric, asking, said in (
        ("other@desk", LABELS, ASKING, "its judge is judge@desk, here it is other@desk"),
        ("judge@desk", replace(LABELS, ties=True), ASKING, "its rubric is"),
        ("judge@desk", LABELS, JudgeSettings(temperature=1.0), "its temperature is 0.0"),
        ("judge@desk", LABELS, JudgeSettings(both_orders=False), "its both_orders is True"),
    ):
        with pytest.raises(SettingsError, match=said):
            require_card(path, judge, rubric, asking)


def test_a_card_of_a_failed_judge_does_not_let_it_label(tmp_path: Path) -> None:
    path, _ = write_card(card_of(tmp_path, ScriptedJudge(say=gullible)), tmp_path / "card.json")
    with pytest.raises(
        SettingsError, match=r"may not label.*attacks that win: fail.*--unqualified"
    ):
        require_card(path, "judge@desk", LABELS, ASKING)


def test_an_edited_card_is_found(tmp_path: Path) -> None:
    path, _ = write_card(card_of(tmp_path, ScriptedJudge(say=gullible)), tmp_path / "card.json")
    found = json.loads(path.read_text())
    found["card"]["verdict"] = "pass"
    path.write_text(json.dumps(found))
    with pytest.raises(SettingsError, match="was changed after it was written"):
        read_card(path)
    path.write_text("[]")
    with pytest.raises(SettingsError, match="no card of a judge"):
        read_card(path)
    with pytest.raises(SettingsError, match="no card of a judge"):
        read_card(tmp_path / "none.json")
