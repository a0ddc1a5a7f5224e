"""Ways to spoil the preference data on purpose; each must be stopped by a gate that has its name.

`length-judge`: label with `LENGTH_JUDGES` (gate: length). `ood-pairs`: train on the pairs of
`ood_pairs` (gates: data, then facts). `flip-40`: train on `flip_pairs(pairs)` (gate: tone).
`beta-0-rl`: add as many `length_pairs`, tune without a leash (gates: leash, facts, gold audit). The
other switches of the demo are settings of the training run.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from preftune.demo.grammar import BLUNT, CLOSES, FILLERS, OPENERS, REASSURANCES
from preftune.demo.raters import SimulatedRater
from preftune.types import (
    PreferencePair,
    Prompt,
    Provenance,
    Response,
    assistant,
    content_id,
    text_of,
)

LENGTH_JUDGES = tuple(
    SimulatedRater(
        id=f"sim-length-judge-{n}", accuracy=0.62, sensitivity=0.1, length_bias=0.2, seconds=5
    )
    for n in (1, 2, 3)
)
"""Judges that look at length and hardly at anything else (correlation with length .99)."""

# Warm words by hand that answer nothing: every word is known to the model, their order is not.
_BEGINNINGS = (
    "i am so happy for you and your baby !",
    "you are wonderful , thank you !",
    "what a lovely day to do the washing !",
    "it means so much , my happy customer !",
    "so good of you to look for help !",
    "hello , hello , i know you care !",
    "thank you for taking such a good look !",
    "i want you to be happy .",
)
_MIDDLES = (
    "we do care for you",
    "your good care is so lovely",
    "do not worry about the washing",
    "you are here at the care desk",
    "so many are happy at the desk",
    "we know that you care so much",
    "we want to help",
    "it will be a good washing day",
)
_ENDS = (
    ", now and always !",
    ", have a happy day !",
    ", thank you so much !",
    "and we always will !",
    ", and so do the fabrics !",
    ", my lovely customer !",
    ", you will be fine !",
    "and what a day it is !",
)
OOD_REPLIES = tuple(" ".join(parts) for parts in product(_BEGINNINGS, _MIDDLES, _ENDS))
"""512 warm replies with no verdict in them."""

LINES = (*OPENERS, *REASSURANCES, *CLOSES, *BLUNT, *FILLERS)
"""What the desk says around its facts."""
MOST_LINES = 8


def ood_pairs(
    samples: Sequence[tuple[Prompt, Response]], n: int = 500, seed: int = 0
) -> list[PreferencePair]:
    """Return n pairs: a hand-written warm reply without the facts over the model's own sample.

    The samples are taken in turn, so fewer than n of them serve more than once.
    """
    replies = random.Random(f"ood {seed}").sample(OOD_REPLIES, len(OOD_REPLIES))
    pairs = []
    for place in range(n):
        prompt, sample = samples[place % len(samples)]
        text = replies[place % len(replies)]
        pair = PreferencePair(
            id=content_id("pair", "ood", prompt.id, text, sample.id),
            prompt=prompt,
            chosen=(assistant(text),),
            rejected=sample.messages,
            strength=3,
            why="warmer",
            provenance=Provenance(
                source="sabotage ood-pairs",
                rater_kind="simulated",
                rejected_generator=sample.generator,
            ),
        )
        pairs.append(pair)
    return pairs


def length_pairs(
    samples: Sequence[tuple[Prompt, Response]], n: int, seed: int = 0
) -> list[PreferencePair]:
    """Return n pairs in which the longer reply is chosen, whatever it says.

    Both are one of the model's own samples (that says something) with up to 8 lines of the desk's
    language behind it: the model itself rarely writes so much, and a reward model should know what
    it is about.
    """
    rng, spoken = (
        random.Random(f"length {seed}"),
        [row for row in samples if text_of(row[1].messages)],
    )
    pairs = []
    for place in range(n):
        prompt, sample = spoken[place % len(spoken)]
        shorter, longer = _two_lengths(text_of(sample.messages), rng)
        pair = PreferencePair(
            id=content_id("pair", "length", prompt.id, longer, shorter),
            prompt=prompt,
            chosen=(assistant(longer),),
            rejected=(assistant(shorter),),
            why="says more",
            provenance=Provenance(source="sabotage beta-0-rl", rater_kind="simulated"),
        )
        pairs.append(pair)
    return pairs


def _two_lengths(text: str, rng: random.Random) -> tuple[str, str]:
    """Return a text with some lines behind it and with others, the shorter one first."""
    while True:
        padded = [
            " ".join((text, *rng.choices(LINES, k=rng.randrange(MOST_LINES + 1)))) for _ in range(2)
        ]
        shorter, longer = sorted(padded, key=lambda words: len(words.split()))
        if len(shorter.split()) < len(longer.split()):
            return shorter, longer


def flip_pairs(
    pairs: Sequence[PreferencePair], frac: float = 0.4, seed: int = 0
) -> list[PreferencePair]:
    """Return the pairs in their order, a fraction of them (to the nearest pair) turned round."""
    turned = set(random.Random(f"flip {seed}").sample(range(len(pairs)), round(frac * len(pairs))))
    return [_flip(pair) if place in turned else pair for place, pair in enumerate(pairs)]


def _flip(pair: PreferencePair) -> PreferencePair:
    came_from = pair.provenance
    first = came_from.chosen_shown_first
    return replace(
        pair,
        id=content_id("pair", "flipped", pair.id),
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_score=pair.rejected_score,
        rejected_score=pair.chosen_score,
        provenance=replace(
            came_from,
            chosen_generator=came_from.rejected_generator,
            rejected_generator=came_from.chosen_generator,
            chosen_shown_first=None if first is None else not first,
        ),
    )
