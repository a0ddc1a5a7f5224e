"""The gate of a job, as `method.preftune.gate` describes it; needs no torch.

    {"suite": "care", "rules": [{"name": "facts stay", "kind": "no_new_failures", "check":
     "fact", "min_n": 30}], "grader": {"type": "string_check", "name": "fact", …}}

Rules are those of `preftune gate`. A grader makes a check of its own name, and the measures
`reward` and `reward_gain`; see `gate.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.evaluation.gate_rules import GateRule
from preftune.graders.specs import Grader, validate
from preftune.settings import build

WHERE = "method.preftune.gate"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    """A gate as it is sent."""

    suite: Annotated[str, Meta(description="Name of the suite, shown with its verdict.")] = "gate"
    rules: Annotated[
        tuple[dict[str, Any], ...], Meta(min_length=1, description="A list of one rule or more.")
    ]
    grader: Annotated[
        dict[str, Any] | None, Meta(description="Grades the responses of both models.")
    ] = None
    pass_threshold: Annotated[
        float, Meta(description="A response passes the grader's check from this reward on.")
    ] = 0.5
    max_tokens: Annotated[int, Meta(gt=0, description="Longest response, in tokens.")] = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class JobGate:
    """A gate that was checked."""

    options: GateOptions
    rules: tuple[GateRule, ...]
    grader: Grader | None


def read_gate_spec(given: Mapping[str, Any]) -> JobGate:
    """Return the gate of a job.

    Raises:
        SettingsError: an unknown name, a rule or grader that is none, a rule that asks for a check
            which nothing makes.
    """
    options = build(GateOptions, dict(given), where=WHERE)
    rules = tuple(
        build(GateRule, rule, where=f"{WHERE}.rules[{place}]")
        for place, rule in enumerate(options.rules)
    )
    grader = validate(options.grader, where=f"{WHERE}.grader") if options.grader else None
    for rule in rules:
        if rule.check is not None and (grader is None or rule.check != grader.name):
            known = f"It is named {grader.name!r}." if grader else "Give a grader of this name."
            raise SettingsError(f"{WHERE}: {rule.name}: no check {rule.check!r}. {known}")
    return JobGate(options=options, rules=rules, grader=grader)
