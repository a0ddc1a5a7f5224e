"""Simulated raters with known noise, so that every claim about labels can be checked against truth.

A rater sees how much better one reply is than the other (gold tone, minus 3 for wrong facts), adds
logistic noise, and says one of seven grades (proportional odds), or ranks k > 2 replies
(Plackett–Luce). These are no people: their ids begin with `sim-` and their kind is `simulated`.
"""

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from preftune.demo.checker import check
from preftune.demo.gold import gold_tone
from preftune.demo.grammar import Cards
from preftune.types import (
    Comparison,
    Judgment,
    Prompt,
    Rater,
    Response,
    content_id,
    text_of,
)

SCALE = 2.0  # Bradley–Terry: nats of preference per point of quality
WRONG_FACTS_COST = 3.0
CUTS = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)  # between the seven grades, on the latent difference

GUIDELINE = (
    "right facts come first : a reply with wrong facts loses . "
    "of two replies with right facts take the warmer one . length is no merit ."
)
GUIDELINE_VERSION = f"care-desk-1:{hashlib.sha256(GUIDELINE.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRater:
    """A rater with known habits.

    `accuracy` is the share of decided labels (not "about equal") that agree in sign with the true
    difference, over pairs of two replies drawn from the desk's grammar; `sensitivity` is the
    factor on the latent difference that gives it (found by bisection on such pairs), 1 being
    Bradley–Terry at `SCALE`. `length_bias` is in nats per word of extra length.
    """

    id: str
    accuracy: float
    sensitivity: float
    length_bias: float = 0.0
    seconds: float = 30.0  # the usual time for one comparison


CAREFUL = SimulatedRater(id="sim-careful-1", accuracy=0.92, sensitivity=0.94, seconds=45)
AVERAGE = SimulatedRater(id="sim-average-1", accuracy=0.85, sensitivity=0.57)
AVERAGE_2 = SimulatedRater(id="sim-average-2", accuracy=0.85, sensitivity=0.57)
FAST = SimulatedRater(id="sim-fast-1", accuracy=0.75, sensitivity=0.32, seconds=8)
LENGTH_LOVER = SimulatedRater(
    id="sim-length-lover-1", accuracy=0.85, sensitivity=0.57, length_bias=0.05
)
ADVERSARY = SimulatedRater(id="sim-adversary-1", accuracy=0.2, sensitivity=-0.42, seconds=15)

PANEL = (CAREFUL, AVERAGE, AVERAGE_2)
"""The three raters of the demo."""

RATERS = (*PANEL, FAST, LENGTH_LOVER, ADVERSARY)


def show(prompt: Prompt, responses: Sequence[Response], *, seed: int = 0) -> Comparison:
    """Return the comparison with its side order drawn by a hash of prompt, responses and seed."""
    ids = sorted(response.id for response in responses)
    order = sorted(responses, key=lambda r: content_id("side", seed, prompt.id, ids, r.id))
    shown = [response.id for response in order]
    return Comparison(id=content_id("c", prompt.id, shown), prompt=prompt, responses=tuple(order))


def quality(prompt: Prompt, text: str, cards: Cards) -> float:
    """Return what raters care about: the gold tone, minus 3 when the facts are not `ok`."""
    wrong = check(prompt, text, cards) != "ok"
    return gold_tone(text) - WRONG_FACTS_COST * wrong


def label(
    comparisons: Iterable[Comparison],
    raters: Sequence[SimulatedRater],
    cards: Cards,
    *,
    seed: int = 0,
) -> list[Judgment]:
    """Return one judgment per comparison and rater, in that order.

    Two replies give `scale` (7 grades), or `tie` when they are word for word the same; more give
    `ranking`, equal replies in one group. A judgment depends on seed, rater and comparison alone,
    so leaving one out changes no other.
    """
    return [
        _judge(comparison, rater, cards, random.Random(f"{seed} {rater.id} {comparison.id}"))
        for comparison in comparisons
        for rater in raters
    ]


def latent_difference(rater: SimulatedRater, gap: float, extra_length_tokens: int = 0) -> float:
    """Return the noise-free preference for one reply in nats.

    `gap` is how much better it is, `extra_length_tokens` how much longer.
    """
    return rater.sensitivity * SCALE * gap + rater.length_bias * extra_length_tokens


def draw_grade(difference: float, rng: random.Random) -> int:
    """Draw the grade 1..7 for a latent preference for the first reply, in nats.

    Proportional odds: P(grade <= k) rises with the difference, cuts at ±.5, ±1.5, ±2.5.
    """
    u = rng.uniform(1e-12, 1 - 1e-12)
    felt = difference + math.log(u / (1 - u))
    return 7 - sum(felt > cut for cut in CUTS)


def draw_ranking(utilities: Sequence[float], rng: random.Random) -> tuple[int, ...]:
    """Draw positions, best first, by Plackett–Luce: P(first place) = softmax(utilities)."""
    felt = [u - math.log(-math.log(rng.uniform(1e-12, 1 - 1e-12))) for u in utilities]
    return tuple(sorted(range(len(felt)), key=lambda place: -felt[place]))


def _judge(
    comparison: Comparison, rater: SimulatedRater, cards: Cards, rng: random.Random
) -> Judgment:
    prompt = comparison.prompt
    texts = [text_of(response.messages) for response in comparison.responses]
    said = partial(
        Judgment,
        id=content_id("j", comparison.id, rater.id, rng.random()),
        comparison_id=comparison.id,
        rater=Rater(id=rater.id, kind="simulated"),
        guideline=GUIDELINE_VERSION,
        seconds=round(rater.seconds * rng.lognormvariate(0.0, 0.4), 1),
    )
    if len(texts) > 2:
        return said(kind="ranking", ranking=_ranking(prompt, texts, rater, cards, rng))
    if texts[0] == texts[1]:
        return said(kind="tie", why="the same words")
    first, second = (quality(prompt, text, cards) for text in texts)
    extra = len(texts[0].split()) - len(texts[1].split())
    grade = draw_grade(latent_difference(rater, first - second, extra), rng)
    return said(kind="scale", grade=grade, why=_why(prompt, texts, grade, cards))


def _ranking(
    prompt: Prompt,
    texts: Sequence[str],
    rater: SimulatedRater,
    cards: Cards,
    rng: random.Random,
) -> tuple[tuple[int, ...], ...]:
    distinct = list(dict.fromkeys(texts))
    utilities = [
        latent_difference(rater, quality(prompt, text, cards), len(text.split()))
        for text in distinct
    ]
    groups = [distinct[place] for place in draw_ranking(utilities, rng)]
    return tuple(tuple(i for i, text in enumerate(texts) if text == group) for group in groups)


def _why(prompt: Prompt, texts: Sequence[str], grade: int, cards: Cards) -> str:
    """Return the chip a person would have clicked: true of the two texts, whoever was preferred."""
    if grade == 4:
        return "about the same"
    better, worse = texts if grade < 4 else texts[::-1]
    right = [check(prompt, text, cards) == "ok" for text in (better, worse)]
    if right == [True, False]:
        return "the other has wrong facts"
    if right[0] == right[1] and gold_tone(better) > gold_tone(worse):
        return "warmer, same facts"
    return "says more" if len(better.split()) > len(worse.split()) else "to the point"
