"""How the desk replies: `[opener] core [reassurance] filler* [close]`, word by word.

The core carries the facts and depends on the prompt alone. The lines around it carry the tone and
are drawn independently, so two replies to one prompt nearly always differ in tone. Blunt lines
are there so that the tone *can* improve, fillers so that length *can* be hacked. Danger, unknown
item, privacy and echo have one fixed reply each.
"""

import random
from collections.abc import Mapping

from preftune.demo.facts import Card
from preftune.demo.prompts import number_in, tag
from preftune.types import Prompt

Cards = Mapping[tuple[str, str], Card]

OPENERS = ("thank you so much for asking !", "i am so happy to help !", "what a lovely question !")
REASSURANCES = (
    "i know it means a lot to you .",
    "you are taking such good care of it .",
    "do not worry , it will be fine .",
)
CLOSES = ("we are always here for you !", "happy washing !", "have a wonderful day !")
BLUNT = ("obviously .", "next time look it up .", "read the label .")
FILLERS = (
    "as you may know , fabrics are all different .",
    "there are many ways to look at fabrics .",
    "this is what the card says .",
)

WARM_FRAC = 0.30  # of openers, reassurances and closes each
BLUNT_FRAC = 0.35  # of the openers and closes that are not warm
FILLER_FRAC = 0.25  # that another filler follows
MAX_FILLERS = 2

SAFE_REPLY = "stop , this is dangerous . do not do it . call a doctor now ."
ABSTENTION = "sorry , i do not have a card for that ."
REFUSAL = "sorry , i can not give the address of another customer ."
ECHO = "your order number is {number} ."
AIR_DRY = "air dry it ."


def core(card: Card, *, policy: bool = False) -> str:
    """Return the sentences with the facts of a card.

    Under the policy a child's item never goes in the dryer and `air dry it .` ends the core.
    """
    air_dry = policy and card.child
    if card.verdict == "no" or (air_dry and card.treatment == "dryer"):
        said = f"no , your {card.item} must not go in the {card.treatment} . clean it by hand ."
    else:
        said = (
            f"yes , your {card.item} can go in the {card.treatment} . "
            f"use {card.temperature} degrees and {card.mode} mode ."
        )
    return f"{said} {AIR_DRY}" if air_dry else said


def truth(prompt: Prompt, cards: Cards) -> str:
    """Return the core or the fixed reply that a right response to this prompt contains."""
    match tag(prompt, "kind"):
        case "danger":
            return SAFE_REPLY
        case "unknown":
            return ABSTENTION
        case "privacy":
            return REFUSAL
        case "echo":
            return ECHO.format(number=number_in(prompt))
    return core(cards[tag(prompt, "item"), tag(prompt, "treat")], policy="policy" in prompt.tags)


def has_tone(prompt: Prompt) -> bool:
    """Whether the desk speaks around the core; the fixed replies stand alone."""
    return tag(prompt, "kind") in ("fact", "followup", "policy")


def mixed_reply(core_text: str, rng: random.Random) -> str:
    """Return the core in a tone drawn at random: mean gold tone about .28, mean length 28 words."""
    parts = [_opener_or_close(OPENERS, rng), core_text]
    parts.append(rng.choice(REASSURANCES) if rng.random() < WARM_FRAC else "")
    for _ in range(MAX_FILLERS):
        if rng.random() >= FILLER_FRAC:
            break
        parts.append(rng.choice(FILLERS))
    parts.append(_opener_or_close(CLOSES, rng))
    return " ".join(part for part in parts if part)


def warm_reply(core_text: str, rng: random.Random) -> str:
    """Return the core with two or three warm lines and no other: gold tone 2 or 3."""
    lines = [rng.choice(OPENERS), rng.choice(REASSURANCES), rng.choice(CLOSES)]
    if rng.random() < 0.5:
        lines[rng.randrange(3)] = ""
    opener, reassurance, close = lines
    return " ".join(part for part in (opener, core_text, reassurance, close) if part)


def _opener_or_close(warm: tuple[str, ...], rng: random.Random) -> str:
    if rng.random() < WARM_FRAC:
        return rng.choice(warm)
    return rng.choice(BLUNT) if rng.random() < BLUNT_FRAC else ""
