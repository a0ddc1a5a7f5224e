from pathlib import Path

import pytest

from preftune.errors import DataError, SettingsError
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.gate import GateReport, gate, read_gate, read_suite, write_gate
from preftune.evaluation.gate_rules import GateRule
from preftune.evaluation.measures import Measure

EVALUATION = Evaluation(
    candidate="tuned",
    baseline="base",
    measures=(
        Measure(name="kl", value=1.0, low=0.9, high=1.1, n=100, unit="nats"),
        Measure(name="wide", value=0.5, low=0.0, high=1.0, n=3),
    ),
)
SUITE = """\
suite: care desk
gates:
  - name: leash
    kind: upper_bound_below
    measure: kl
    threshold: 3
    why: Far from the reference, facts die.
  - {name: facts, kind: non_inferior, check: facts, margin: 0.02}
"""


def bound(name: str, measure: str, threshold: float) -> GateRule:
    return GateRule(name=name, kind="upper_bound_below", measure=measure, threshold=threshold)


PASSES, FAILS, OPEN = bound("a", "kl", 3), bound("b", "kl", 0.5), bound("c", "wide", 0.7)


@pytest.mark.parametrize(
    ("rules", "verdict", "code"),
    [
        ([PASSES], "ship", 0),
        ([PASSES, OPEN], "can't tell", 3),
        ([OPEN, FAILS, PASSES], "don't ship", 1),
    ],
)
def test_verdict_is_the_worst_of_the_rules(rules: list[GateRule], verdict: str, code: int) -> None:
    found = gate(EVALUATION, rules)
    assert (found.verdict, found.exit_code) == (verdict, code)


def test_missed_rules_come_failures_first() -> None:
    found = gate(EVALUATION, [OPEN, PASSES, FAILS])
    assert [result.name for result in found.missed()] == ["b", "c"]


def test_report_reads_back_equal(tmp_path: Path) -> None:
    report = gate(EVALUATION, [PASSES, OPEN], suite="s")
    write_gate(tmp_path / "gate.json", report)
    back = read_gate(tmp_path / "gate.json")
    assert isinstance(back, GateReport)
    assert back == report


def test_suite_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(SUITE)
    name, rules = read_suite(path)
    assert name == "care desk"
    assert rules[0] == GateRule(
        name="leash",
        kind="upper_bound_below",
        measure="kl",
        threshold=3.0,
        why="Far from the reference, facts die.",
    )
    assert rules[1].margin == 0.02


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE.replace("threshold:", "treshold:"), "gate 1 .leash.*Did you mean 'threshold'"),
        (SUITE.replace("gates:", "gate:"), "Did you mean 'gates'"),
        (SUITE.replace("non_inferior", "noninferior"), "gate 2 .facts.*kind"),
        (SUITE.replace("0.02", "-0.02"), "margin between 0 and 1"),
        ("suite: x\ngates: []\n", "gates"),
        ("suite: x\n", "gates is missing"),
        ("gates: [1]\n", "gates"),
        ("gates: [{kind: value_below}]\n", "name is missing"),
    ],
)
def test_a_wrong_suite_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_suite(path)


def test_no_rules_or_one_name_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="there are no rules"):
        gate(EVALUATION, [])
    with pytest.raises(SettingsError, match="'a' is there twice"):
        gate(EVALUATION, [PASSES, PASSES])


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_text('{"verdict": "maybe"}')
    with pytest.raises(DataError, match=r"gate\.json: .*Write it with"):
        read_gate(path)
