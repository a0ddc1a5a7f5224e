"""The gate: ship, don't ship, or can't tell, by rules written down before the figures were seen.

`gate_rules` says when one rule passes; here the rules of a suite become a verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.evaluation.evaluate import Evaluation, read_typed
from preftune.evaluation.gate_rules import GateRule, Outcome, RuleKind, decide
from preftune.files import write_json
from preftune.settings import build, read_yaml

Verdict = Literal["ship", "don't ship", "can't tell"]
EXIT_CODES: dict[Verdict, int] = {"ship": 0, "don't ship": 1, "can't tell": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSuite:
    """The rules a candidate must pass, all of them."""

    suite: Annotated[str, Meta(description="Name of the suite, shown in reports.")] = ""
    gates: Annotated[
        tuple[dict[str, Any], ...], Meta(min_length=1, description="A list of one rule or more.")
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What one rule says, in a word and in one plain sentence."""

    name: str
    kind: RuleKind
    outcome: Outcome
    sentence: str
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """The verdict over all rules: ship only when every one passes."""

    suite: str
    candidate: str
    baseline: str
    verdict: Verdict
    results: tuple[GateResult, ...]

    @property
    def exit_code(self) -> int:
        """0 ship, 1 don't ship, 3 can't tell."""
        return EXIT_CODES[self.verdict]

    def missed(self) -> tuple[GateResult, ...]:
        """Return the results that are no pass, failures first."""
        order: tuple[Outcome, ...] = ("fail", "can't tell")
        return tuple(r for outcome in order for r in self.results if r.outcome == outcome)


def gate(evaluation: Evaluation, rules: Sequence[GateRule], *, suite: str = "") -> GateReport:
    """Return the verdict: don't ship if a rule fails, else can't tell if one can't, else ship.

    Raises:
        SettingsError: no rules, or two of one name.
    """
    names = [rule.name for rule in rules]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not rules or repeated:
        what = f"{repeated[0]!r} is there twice" if repeated else "there are no rules"
        raise SettingsError(f"gate {suite}: {what}. Give one rule or more, each its own name.")
    results = []
    for rule in rules:
        outcome, sentence = decide(rule, evaluation)
        results.append(
            GateResult(
                name=rule.name, kind=rule.kind, outcome=outcome, sentence=sentence, why=rule.why
            )
        )
    return GateReport(
        suite=suite,
        candidate=evaluation.candidate,
        baseline=evaluation.baseline,
        verdict=_verdict([result.outcome for result in results]),
        results=tuple(results),
    )


def read_suite(path: Path) -> tuple[str, tuple[GateRule, ...]]:
    """Return the name and the rules of a YAML suite: `suite: NAME`, `gates:` a list of rules.

    Raises:
        SettingsError: an unknown key (with the nearest known one), a missing one, a wrong value.
    """
    suite = build(GateSuite, read_yaml(path), where=str(path))
    rules = [
        build(GateRule, rule, where=f"{path}: gate {place} ({rule.get('name', 'no name')})")
        for place, rule in enumerate(suite.gates, start=1)
    ]
    return suite.suite or path.stem, tuple(rules)


def write_gate(path: Path, report: GateReport) -> None:
    """Write the report as JSON that `read_gate` gives back equal."""
    write_json(path, report)


def read_gate(path: Path) -> GateReport:
    """Return the gate report of a file.

    Raises:
        DataError: not readable, or not a gate report.
    """
    return read_typed(path, GateReport, "Write it with `preftune gate --out`")


def _verdict(outcomes: Sequence[Outcome]) -> Verdict:
    if "fail" in outcomes:
        return "don't ship"
    return "can't tell" if "can't tell" in outcomes else "ship"
