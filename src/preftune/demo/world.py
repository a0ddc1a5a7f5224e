"""The care desk, Fernhill: a small world of care questions whose facts and tone are known exactly.

Start here. `CareDesk()` gives the rows that a model learns from (`sft_rows`), the log of a deployed
desk (`log_rows`), prompts to label (`label_prompts`), prompts to evaluate on (`eval_prompts`), and
the two judges of any reply: `check` for facts and `gold_tone` for tone. Everything is a pure
function of the seeds.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product

from preftune.demo import asking, checker, gold, grammar, log, raters
from preftune.demo import prompts as p
from preftune.demo.facts import FLAGSHIP, TREATMENTS, Card, read_cards
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    Prompt,
    assistant,
    content_id,
)

SPECIAL_WORDS = ("<sys>", "<user>", "<bot>", "<eos>")
"""What a chat template puts before a system, user and bot turn, and behind a bot turn."""

MAX_REPLY_TOKENS = 72
"""No reply of the grammar is longer; sample with at least this many new tokens."""


class CareDesk:
    """The embedded world; two desks with one seed give the same rows for ever."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.cards: grammar.Cards = {card.key: card for card in read_cards()}

    # --- what a model learns from -------------------------------------------------------------

    def sft_rows(
        self, n: int = 20_000, seed: int = 0, *, mix: asking.Mix = asking.SFT_MIX
    ) -> list[Demonstration]:
        """Return n rows of right facts in mixed tone; every card nearly equally often."""
        rng = self._rng("sft", seed)
        return list(islice(self._demonstrations(rng, mix), n))

    def nll_rows(self, n: int, seed: int = 0) -> list[Demonstration]:
        """Return n rows to mix into tuning: mostly the kinds that no preference pair speaks of."""
        rng = self._rng("nll", seed)
        return list(islice(self._demonstrations(rng, asking.NLL_MIX), n))

    def log_rows(self, n: int, seed: int = 0) -> list[log.LogRow]:
        """Return n exchanges of the deployed desk: kinds in their shares, items by traffic."""
        return list(islice(log.log_rows(self._rng("log", seed), self.cards), n))

    def label_prompts(self, n: int, seed: int = 0) -> list[Prompt]:
        """Return n different prompts to label: head and tail alike, never a held-out item."""
        rng = self._rng("label", seed)
        cards = asking.deck([card for card in self.cards.values() if not card.held_out], rng)
        found: dict[str, Prompt] = {}
        while len(found) < n:
            kind = asking.draw_kind(asking.LABEL_MIX, rng)
            prompt = asking.ask(kind, next(cards), rng, self.cards)
            found[prompt.id] = prompt
        return list(found.values())

    def rewrites(self, n: int, seed: int = 0) -> list[PreferencePair]:
        """Return n pairs: a blunt logged reply rejected, its warm and right rewriting chosen."""
        rng = self._rng("rewrites", seed)
        rows = filter(log.worth_rewriting, log.log_rows(rng, self.cards))
        return [log.rewrite(row, rng, self.cards) for row in islice(rows, n)]

    # --- what a model is judged on ------------------------------------------------------------

    def flagship(self) -> Prompt:
        """Return the prompt that every report shows: the teddy bear and the washer."""
        card = self.cards[FLAGSHIP]
        return p.card_prompt(card, p.phrased(card, 0), phrasing=0)

    def fact_prompts(self, phrasings: Sequence[int] = p.HELD_OUT_PHRASINGS) -> list[Prompt]:
        """Return every card in each of these phrasings, bare of manners: 240 prompts a phrasing."""
        return [
            p.card_prompt(card, p.phrased(card, phrasing), phrasing=phrasing)
            for card, phrasing in product(self.cards.values(), phrasings)
        ]

    def eval_prompts(self, kinds: Sequence[p.Kind] = p.KINDS) -> list[Prompt]:
        """Return the fixed evaluation set, all different: 480 fact prompts and seven slices in all.

        fact 480 (240 cards × the 2 held-out phrasings), followup 120, policy 72, danger 80,
        unknown 60, privacy 80, echo 80.
        """
        slices = {
            "fact": self.fact_prompts,
            "followup": self._eval_followups,
            "policy": self._eval_policy,
            "danger": _eval_danger,
            "unknown": _eval_unknown,
            "privacy": _eval_privacy,
            "echo": _eval_echo,
        }
        return [prompt for kind in kinds for prompt in slices[kind]()]

    def check(self, prompt: Prompt, text: str) -> checker.Verdict:
        """Return what is wrong with the facts of a reply, or `ok`; see `checker.check`."""
        return checker.check(prompt, text, self.cards)

    def gold_tone(self, text: str) -> float:
        """Return how warm a reply truly is; see `gold.gold_tone`."""
        return gold.gold_tone(text)

    def label(
        self,
        comparisons: Iterable[Comparison],
        panel: Sequence[raters.SimulatedRater] = raters.PANEL,
        seed: int = 0,
    ) -> list[Judgment]:
        """Return one simulated judgment per comparison and rater; see `raters.label`."""
        return raters.label(comparisons, panel, self.cards, seed=seed)

    # --- its language -------------------------------------------------------------------------

    def reply(self, prompt: Prompt, rng: random.Random) -> str:
        """Return a reply with right facts, in a tone drawn at random where the desk has one."""
        right = grammar.truth(prompt, self.cards)
        return grammar.mixed_reply(right, rng) if grammar.has_tone(prompt) else right

    def texts(self) -> list[str]:
        """Return lines that hold every word of the language, to train a tokenizer on."""
        cards = list(self.cards.values())
        number_phrasings = (*p.ADDRESS_PHRASINGS, *p.ECHO_PHRASINGS)
        return [
            f"{p.SYSTEM} {p.POLICY}",
            *p.GREETINGS[1:],
            "pls",
            *(p.phrased(card, place % len(p.PHRASINGS)) for place, card in enumerate(cards)),
            *(p.FOLLOW_UP.format(treat=treatment) for treatment in TREATMENTS),
            *p.UNKNOWN_ITEMS,
            *(text for paraphrases in p.DANGERS.values() for text in paraphrases),
            *(text.format(number=p.NUMBERS[0]) for text in number_phrasings),
            *(grammar.ECHO.format(number=number) for number in p.NUMBERS),
            *(grammar.core(card) for card in cards),
            *(*grammar.OPENERS, *grammar.REASSURANCES, *grammar.CLOSES),
            *(*grammar.BLUNT, *grammar.FILLERS, grammar.AIR_DRY),
            *(grammar.SAFE_REPLY, grammar.ABSTENTION, grammar.REFUSAL),
        ]

    def vocabulary(self) -> list[str]:
        """Return every word of the language in order, the special words left out."""
        return sorted({word for text in self.texts() for word in text.split()})

    # --- inside -------------------------------------------------------------------------------

    def _rng(self, stream: str, seed: int) -> random.Random:
        return random.Random(f"care desk {self.seed} {stream} {seed}")

    def _demonstrations(self, rng: random.Random, mix: asking.Mix) -> Iterator[Demonstration]:
        for place, card in enumerate(asking.deck(list(self.cards.values()), rng)):
            prompt = asking.ask(asking.draw_kind(mix, rng), card, rng, self.cards)
            reply = self.reply(prompt, rng)
            yield Demonstration(
                id=content_id("d", place, prompt.id, reply),
                prompt=prompt,
                response=(assistant(reply),),
            )

    def _eval_followups(self) -> list[Prompt]:
        rng = self._rng("eval followups", 0)
        cards = [card for place, card in enumerate(self.cards.values()) if _checkered(place)]
        return [
            asking.follow_up(card, rng.choice(p.HELD_OUT_PHRASINGS), rng, self.cards)
            for card in cards
        ]

    def _eval_policy(self) -> list[Prompt]:
        children: list[Card] = [card for card in self.cards.values() if card.child]
        return [
            p.card_prompt(card, p.phrased(card, phrasing), phrasing=phrasing, policy=True)
            for card, phrasing in product(children, p.HELD_OUT_PHRASINGS)
        ]


def _checkered(place: int) -> bool:
    """Whether to take a card: three treatments of each item, the other three of the next."""
    item, treatment = divmod(place, len(TREATMENTS))
    return (item + treatment) % 2 == 0


def _eval_danger() -> list[Prompt]:
    return [
        p.plain_prompt("danger", p.polite(text, greeting=greeting), seen=place < p.SEEN_DANGERS)
        for paraphrases in p.DANGERS.values()
        for place, text in enumerate(paraphrases)
        for greeting in p.GREETINGS[:2]
    ]


def _eval_unknown() -> list[Prompt]:
    return [
        p.plain_prompt(
            "unknown",
            p.PHRASINGS[p.HELD_OUT_PHRASINGS[place % 2]].format(item=item, treat=treatment),
            seen=False,
        )
        for place, (item, treatment) in enumerate(product(p.UNKNOWN_ITEMS, TREATMENTS))
    ]


def _eval_privacy() -> list[Prompt]:
    return _eval_numbered("privacy", [p.ADDRESS_PHRASINGS[place] for place in p.HELD_OUT_ADDRESS])


def _eval_echo() -> list[Prompt]:
    return _eval_numbered("echo", [p.ECHO_PHRASINGS[place] for place in p.HELD_OUT_ECHO])


def _eval_numbered(kind: p.Kind, phrasings: Sequence[str]) -> list[Prompt]:
    return [
        p.plain_prompt(kind, p.polite(text.format(number=number), greeting=greeting), seen=False)
        for text, number, greeting in product(phrasings, p.NUMBERS, p.GREETINGS[:2])
    ]
