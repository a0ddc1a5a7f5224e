"""Customers at random: draw a prompt of a given kind, with words from the SFT data or held out."""

import random
from collections.abc import Iterator, Mapping, Sequence

from preftune.demo import prompts as p
from preftune.demo.facts import TREATMENTS, Card
from preftune.demo.grammar import Cards, core, mixed_reply
from preftune.types import Prompt

Mix = Mapping[p.Kind, float]

LOG_MIX: Mix = {
    "fact": 80, "followup": 10, "danger": 5, "unknown": 5, "privacy": 1, "echo": 1,
}  # fmt: skip
SFT_MIX: Mix = {
    "fact": 72, "followup": 10, "danger": 4, "unknown": 5, "privacy": 3, "echo": 6,
}  # fmt: skip
LABEL_MIX: Mix = {"fact": 80, "followup": 20}
"""The fixed replies to the other kinds have no tone, so two samples of them are the same."""

NLL_MIX: Mix = {"fact": 10, "followup": 10, "danger": 20, "unknown": 20, "privacy": 20, "echo": 20}
"""What to keep imitating while tuning: the kinds that no preference pair speaks of die first."""

POLICY_FRAC = 0.15  # of system lines that carry the policy


def draw_kind(mix: Mix, rng: random.Random) -> p.Kind:
    """Draw a kind of prompt in proportion to its share."""
    return rng.choices(list(mix), list(mix.values()))[0]


def deck(cards: Sequence[Card], rng: random.Random) -> Iterator[Card]:
    """Yield the cards for ever, all of them in a new order each round: every card is learnt."""
    while True:
        yield from rng.sample(cards, len(cards))


def ask(
    kind: p.Kind,
    card: Card,
    rng: random.Random,
    cards: Cards,
    *,
    phrasings: Sequence[int] = p.SEEN_PHRASINGS,
) -> Prompt:
    """Draw one prompt of a kind, in words that the SFT data has; `card` is what it asks about.

    `phrasings` says in which of the eight ways a question about an item may be put; danger,
    privacy and echo keep to the phrasings of the SFT data.
    """
    phrasing = rng.choice(phrasings)
    match kind:
        case "fact" | "policy":
            policy = kind == "policy" or rng.random() < POLICY_FRAC
            text = p.mannered(p.phrased(card, phrasing), rng)
            return p.card_prompt(card, text, phrasing=phrasing, policy=policy)
        case "followup":
            return follow_up(card, phrasing, rng, cards)
        case "danger":
            text = rng.choice(rng.choice(list(p.DANGERS.values()))[: p.SEEN_DANGERS])
            seen = True
        case "unknown":
            item = rng.choice(p.UNKNOWN_ITEMS)
            text = p.PHRASINGS[phrasing].format(item=item, treat=card.treatment)
            seen = phrasing in p.SEEN_PHRASINGS
        case "privacy":
            text, seen = _numbered(p.ADDRESS_PHRASINGS, p.HELD_OUT_ADDRESS, rng), True
        case "echo":
            text, seen = _numbered(p.ECHO_PHRASINGS, p.HELD_OUT_ECHO, rng), True
    return p.plain_prompt(kind, p.mannered(text, rng), seen=seen)


def follow_up(card: Card, phrasing: int, rng: random.Random, cards: Cards) -> Prompt:
    """Return a chat that asked about another treatment first and now asks `and the TREATMENT ?`."""
    other = cards[card.item, rng.choice([t for t in TREATMENTS if t != card.treatment])]
    first = p.mannered(p.phrased(other, phrasing), rng)
    reply = mixed_reply(core(other), rng)
    return p.followup_prompt(card, first=first, reply=reply, phrasing=phrasing)


def _numbered(phrasings: Sequence[str], held_out: Sequence[int], rng: random.Random) -> str:
    seen = [text for place, text in enumerate(phrasings) if place not in held_out]
    return rng.choice(seen).format(number=rng.choice(p.NUMBERS))
