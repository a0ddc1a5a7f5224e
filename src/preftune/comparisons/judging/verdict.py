"""From a judge's answer to a verdict or to none: exact labels, never a search in free text."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from preftune.comparisons.judging.rubric import Rubric
from preftune.responses.chat_client import ChatAnswer
from preftune.types import JudgmentKind

LEAST_MASS = 0.5
"""Share of the listed first tokens that must be labels; below it the model meant to say another
thing."""
ROUNDING = 0.01
"""Nats above 0 that rounding explains; more is no log-probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one answer says about the two responses in the order shown."""

    label: str  # as the judge wrote it
    choice: int | None = None  # 0 or 1; None for a tie or a grade
    grade: int | None = None  # 1..7 on that scale
    probabilities: tuple[float, ...] = ()  # that first, that second is better; sum 1

    @property
    def kind(self) -> JudgmentKind:
        """The kind of judgment it makes."""
        if self.grade is not None:
            return "scale"
        return "tie" if self.choice is None else "binary"


def verdict_of(answer: ChatAnswer, rubric: Rubric) -> Verdict | None:
    """Return the verdict of an answer; None where it has none, which is never scored.

    Log-probabilities of the labels speak first: they are a choice among the labels alone, whatever
    else the model would have written. Without them the whole answer must have the rubric's form:
    the label and nothing else, or reasons and a last line `VERDICT: label`. Marks in any other
    place are text.
    """
    if not rubric.explain and not rubric.verdict_pattern:
        chosen = from_logprobs(answer.logprobs, rubric)
        if chosen is not None:
            return chosen
    return from_text(answer.text, rubric)


def from_text(text: str, rubric: Rubric) -> Verdict | None:
    """Return the verdict of a whole answer, white space at both ends apart; None if it has none."""
    matched = re.fullmatch(rubric.pattern, text.strip())
    if matched is None:
        return None
    found = {name: said for name, said in matched.groupdict().items() if said is not None}
    if len(found) != 1:
        return None
    ((name, said),) = found.items()
    if name == "grade":
        return Verdict(label=said, grade=int(said)) if said in map(str, range(1, 8)) else None
    return Verdict(label=said, choice={"first": 0, "second": 1, "tie": None}[name])


def from_logprobs(logprobs: Iterable[tuple[str, float]], rubric: Rubric) -> Verdict | None:
    """Return the likeliest label and the probability of either side, both over the labels alone.

    Tokens that differ in white space are one label; a label that is not listed has probability 0.
    A tie, and grade 4, count half for either side. A at -0.1 and B at -2.4 nats give .909 to .091.
    None where the labels hold less than half of what is listed, two share the first place, or a
    number is above 0 and so no log-probability.
    """
    given = list(logprobs)
    if any(value > ROUNDING for _, value in given):
        return None
    listed = [(token.strip(), math.exp(value)) for token, value in given]
    mass = {label: math.fsum(p for token, p in listed if token == label) for label in rubric.labels}
    total = math.fsum(mass.values())
    if total <= 0 or total < LEAST_MASS * math.fsum(p for _, p in listed):
        return None
    label = max(mass, key=lambda name: mass[name])
    if list(mass.values()).count(mass[label]) > 1:
        return None
    sides = {"A": 1.0, "TIE": 0.5, "B": 0.0, "1": 1.0, "2": 1.0, "3": 1.0, "4": 0.5}
    first = math.fsum(sides.get(name, 0.0) * p for name, p in mass.items()) / total
    odds = (first, 1.0 - first)
    if rubric.scale == "binary":
        choice = {"A": 0, "B": 1}.get(label)
        return Verdict(label=label, choice=choice, probabilities=odds)
    return Verdict(label=label, grade=int(label), probabilities=odds)
