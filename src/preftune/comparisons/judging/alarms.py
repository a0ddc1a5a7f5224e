"""Signs that a judge does not judge: place, length, its own answers, answers that are all the same.

Every share has an interval over prompts, and an alarm is raised by the interval, not by the share.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from preftune.comparisons.bias import length_bias, position_bias
from preftune.comparisons.judging.panel import Outcomes
from preftune.comparisons.vote_table import vote_table
from preftune.stats.intervals import cluster_places
from preftune.stats.shares import share
from preftune.types import Comparison, Judgment, text_of

FEWEST_PROMPTS = 3  # a text that answers this many prompts, and
CONSTANT_SHARE = 0.1  # this share of a generator's prompts, answers none of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """One share, what it is of, its 95 % interval over prompts, and whether it is an alarm."""

    kind: str
    who: str  # the judge, or the generator
    share: float
    low: float
    high: float
    n: int
    alarm: bool
    what: str


def bias_signs(
    judgments: Sequence[Judgment], comparisons: Sequence[Comparison], *, dimension: str
) -> list[Sign]:
    """Return, per judge, the share of its decided verdicts for the first and the longer answer.

    An alarm, with its direction, when the interval leaves ½ out. Asked in both orders, a judge
    that looks at the answers alone names the first in just ½. A liking for length may be right:
    compare it with the people of the calibration set before calling it a fault.
    """
    votes = vote_table(judgments, comparisons, dimension=dimension)
    leans = [("position", lean) for lean in position_bias(votes)]
    leans += [("length", lean) for lean in length_bias(judgments, comparisons, dimension=dimension)]
    return [
        Sign(
            kind=kind,
            who=lean.who,
            share=lean.share.value,
            low=lean.share.low,
            high=lean.share.high,
            n=lean.share.n,
            alarm=lean.alarm,
            what=f"verdicts for {lean.towards}"
            + (f"; leans to {lean.towards if lean.sign > 0 else lean.away}" * lean.alarm),
        )
        for kind, lean in leans
    ]


def flip_signs(found: Outcomes, comparisons: Sequence[Comparison], *, most: float) -> list[Sign]:
    """Return, per judge, the share of comparisons decided by place alone; alarm above `most`.

    The alarm is raised by the lower end of the interval.
    """
    prompt_of = {c.id: c.prompt.id for c in comparisons}
    signs = []
    for judge, items in found.items():
        kept = {item: outcome for item, outcome in items.items() if outcome != "unparsed"}
        flipped = share(
            [outcome == "flip" for outcome in kept.values()],
            cluster_places([prompt_of[item] for item in kept]),
        )
        if flipped is not None:
            signs.append(
                Sign(
                    kind="flip",
                    who=judge,
                    share=flipped.value,
                    low=flipped.low,
                    high=flipped.high,
                    n=flipped.n,
                    alarm=flipped.low > most,
                    what="comparisons decided by the order",
                )
            )
    return signs


def self_preference(judge: str, self_judged: int, n: int, *, kept: bool) -> list[Sign]:
    """Return the share of comparisons in which the judge wrote an answer; any is an alarm."""
    if not self_judged:
        return []
    part = self_judged / n
    done = "judged all the same" if kept else "left out"
    return [
        Sign(
            kind="self-preference",
            who=judge,
            share=part,
            low=part,
            high=part,
            n=n,
            alarm=True,
            what=f"comparisons in which the judge wrote an answer; {done}",
        )
    ]


def constant_answers(comparisons: Iterable[Comparison]) -> list[Sign]:
    """Return the generators that give one text to several prompts: such an answer games a judge.

    An alarm from 3 prompts and a tenth of the generator's prompts on.
    """
    prompts: dict[str, set[str]] = defaultdict(set)
    by_text: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for comparison in comparisons:
        for response in comparison.responses:
            who, text = (
                response.generator or "unnamed",
                " ".join(text_of(response.messages).split()),
            )
            prompts[who].add(comparison.prompt.id)
            by_text[who][text].add(comparison.prompt.id)
    signs = []
    for who, texts in by_text.items():
        text, same = max(texts.items(), key=lambda item: len(item[1]))
        part, n = len(same) / len(prompts[who]), len(prompts[who])
        if len(same) >= FEWEST_PROMPTS and part >= CONSTANT_SHARE:
            what = f"prompts that got one and the same answer: {text[:60]!r}"
            signs.append(
                Sign(
                    kind="constant answer",
                    who=who,
                    share=part,
                    low=part,
                    high=part,
                    n=n,
                    alarm=True,
                    what=what,
                )
            )
    return signs
