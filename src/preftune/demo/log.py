"""The desk's production log: what came in, what was replied, and whether a thumb went up."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from preftune.demo.asking import LOG_MIX, ask, draw_kind
from preftune.demo.facts import Card
from preftune.demo.gold import gold_tone
from preftune.demo.grammar import Cards, core, has_tone, mixed_reply, truth, warm_reply
from preftune.demo.prompts import PHRASINGS, tag
from preftune.types import (
    PreferencePair,
    Prompt,
    Provenance,
    Response,
    assistant,
    content_id,
)

Channel = Literal["chat", "email", "phone"]
Thumbs = Literal["up", "down"]

CHANNELS: tuple[Channel, ...] = ("chat", "email", "phone")
CHANNEL_SHARES = (0.6, 0.3, 0.1)
DEPLOYED = "care-desk-deployed"
REWRITER = "sim-rewriter-1"
WRONG_FRAC = 0.05  # of deployed replies about a card that say the opposite of it
THUMBS_FRAC = 0.3  # of rows where the customer said anything at all


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRow:
    """One exchange of the deployed desk."""

    id: str
    channel: Channel
    prompt: Prompt
    reply: Response
    thumbs: Thumbs | None

    @property
    def system(self) -> str:
        """The system context that was in force."""
        return self.prompt.messages[0].content

    @property
    def user(self) -> str:
        """What the customer wrote last."""
        return self.prompt.messages[-1].content

    @property
    def text(self) -> str:
        """What the desk replied."""
        return self.reply.messages[0].content


def log_rows(rng: random.Random, cards: Cards) -> Iterator[LogRow]:
    """Yield log rows for ever: kinds in their shares, items by traffic, all eight phrasings."""
    ordered: Sequence[Card] = list(cards.values())
    traffic = [card.traffic for card in ordered]
    for place in itertools.count():
        card = rng.choices(ordered, traffic)[0]
        prompt = ask(draw_kind(LOG_MIX, rng), card, rng, cards, phrasings=range(len(PHRASINGS)))
        text = _deployed_text(prompt, rng, cards)
        reply = Response(
            id=content_id("r", "deployed", place, prompt.id, text),
            prompt_id=prompt.id,
            messages=(assistant(text),),
            generator=DEPLOYED,
            origin="logged",
        )
        yield LogRow(
            id=content_id("log", place, prompt.id, text),
            channel=rng.choices(CHANNELS, CHANNEL_SHARES)[0],
            prompt=prompt,
            reply=reply,
            thumbs=_thumbs(text, rng),
        )


def rewrite(row: LogRow, rng: random.Random, cards: Cards) -> PreferencePair:
    """Return a pair: the logged reply rejected, the same answer rewritten warm and right chosen."""
    chosen = warm_reply(truth(row.prompt, cards), rng)
    return PreferencePair(
        id=content_id("pair", "rewrite", row.id, chosen),
        prompt=row.prompt,
        chosen=(assistant(chosen),),
        rejected=row.reply.messages,
        why="rewritten: warm, right facts",
        provenance=Provenance(
            source="care desk rewrites",
            raters=(REWRITER,),
            rater_kind="simulated",
            chosen_generator=REWRITER,
            rejected_generator=DEPLOYED,
        ),
    )


def worth_rewriting(row: LogRow) -> bool:
    """Whether a reply is blunt, and its item and phrasing are not held out for the evaluation."""
    open_to_pairs = {"seen-item", "seen-phrasing"} <= set(row.prompt.tags)
    return open_to_pairs and has_tone(row.prompt) and gold_tone(row.text) <= -1.0


def _deployed_text(prompt: Prompt, rng: random.Random, cards: Cards) -> str:
    if not has_tone(prompt):
        return truth(prompt, cards)
    card = cards[tag(prompt, "item"), tag(prompt, "treat")]
    if rng.random() < WRONG_FRAC:
        card = _opposite(card)
    return mixed_reply(core(card, policy="policy" in prompt.tags), rng)


def _opposite(card: Card) -> Card:
    if card.verdict == "yes":
        return replace(card, verdict="no", temperature=None, mode=None)
    return replace(card, verdict="yes", temperature=40, mode="normal")


def _thumbs(text: str, rng: random.Random) -> Thumbs | None:
    if rng.random() >= THUMBS_FRAC:
        return None
    return "up" if rng.random() < 1 / (1 + math.exp(-gold_tone(text))) else "down"
