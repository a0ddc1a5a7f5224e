"""Phrases that decide: where one rater always picks (or drops) the response that holds some words.

A trigger planted by a rater leaves this trace: over many prompts their choice follows a phrase, and
nobody else's does. Counting is over runs of one to three words that just one of two responses has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, expit, logit

from preftune.datasets.audit_words import Words

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST = 3  # words of a phrase
FEWEST = 8  # prompts on which a phrase must have parted the two responses
FOLLOWS = 0.9  # a rater whose choices follow a phrase so often is led by it
OTHERS = 0.7  # as long as those of the others follow it no more often than this
RARE = 0.02  # of the pairs: a phrase that fewer hold is rare
RARE_FOLLOWS = 0.95
PRIOR = 5.0  # choices' worth of the usual rate, mixed into the rate of the others
CHANCE = 0.05  # of any false alarm at all, over everything tested
EVERYBODY = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One decided choice between two texts; `rater` is empty where nobody is named."""

    rater: str
    prompt: str
    better: str
    worse: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """Words that one rater's choices follow, or everybody's (`rater` empty)."""

    words: str
    rater: str
    wins: bool  # True: the response with the words is chosen; False: it is dropped
    hits: int  # choices that followed it
    n: int  # choices between a response with the words and one without, a prompt counted once
    others: float  # how often the choices of the others follow it; ½ where nobody else met it
    others_n: int
    tied: float  # this rater's share of all choices that followed it
    p: float  # chance of such a row anywhere in the set, by the usual rates


@dataclass(frozen=True, kw_only=True, slots=True)
class _Votes:
    """Choices as columns [V]; a unit is two texts, whichever of them won."""

    unit: Ints
    rater: Ints
    prompt: Ints
    first_won: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Events:
    """Choices between a response with a phrase and one without, as columns [E]."""

    phrase: Ints
    rater: Ints
    prompt: Ints
    won: NDArray[np.bool_]  # whether the response with the phrase was chosen

    def at(self, kept: Ints) -> "_Events":
        """Return some of them."""
        return _Events(
            phrase=self.phrase[kept],
            rater=self.rater[kept],
            prompt=self.prompt[kept],
            won=self.won[kept],
        )


def deciding_phrases(choices: Sequence[Choice], words: Words | None = None) -> list[Phrase]:
    """Return the phrases that decide for one rater alone, then rare ones that decide for all.

    A rater's row needs 8 prompts or more; their choices follow the phrase in 90 % or more, those of
    the others in 70 % at most; and a binomial test against the rate expected of this rater (their
    usual rate over all phrases, moved by what the others do with this one) must hold after
    Bonferroni over everything tested. So a rater who likes long answers, which hold more of
    everything, is no suspect. A lone rater is everybody. Of phrases within each other one is kept.

    Args:
        choices: of all raters.
        words: remembers texts that were taken apart before.
    """
    if len(choices) < FEWEST:
        return []
    texts, raters, votes = _columns(choices)
    tests: int = 0
    found: list[tuple[_Row, _Names, Sequence[str]]] = []
    for names, events in _events_by_size(texts, votes, words or Words()):
        counted, more = _by_rater(events, len(raters)) if len(raters) > 1 else ([], 0)
        found += [(row, names, raters) for row in counted]
        tests += more
        counted, more = _by_everybody(events, len(choices))
        found += [(row, names, [EVERYBODY]) for row in counted]
        tests += more
    return _clearest([_named(*row, tests) for row in found if row[0].said.p * tests < CHANCE])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """The words of phrases of one size, by their numbers."""

    known: list[str]  # single words
    grown: tuple[Ints, ...] = ()  # per further word: (shorter phrase · words known) + last word

    def of(self, number: int) -> str:
        """Return the words of a phrase."""
        found: list[str] = []
        for codes in reversed(self.grown):
            number, last = divmod(int(codes[number]), len(self.known))
            found.insert(0, self.known[last])
        return " ".join([self.known[number], *found])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A phrase by its number, before it has its words."""

    phrase: int
    rater: int
    said: Phrase


def _columns(choices: Sequence[Choice]) -> tuple[list[str], list[str], _Votes]:
    """Return the texts, two per unit, the raters, and the votes as columns."""
    units: dict[tuple[str, str], int] = {}
    raters: dict[str, int] = {}
    prompts: dict[str, int] = {}
    rows = []
    for choice in choices:
        first, second = sorted((choice.better, choice.worse))
        unit = units.setdefault((first, second), len(units))
        rater = raters.setdefault(choice.rater, len(raters))
        prompt = prompts.setdefault(choice.prompt, len(prompts))
        rows.append((unit, rater, prompt, choice.better == first))
    unit_, rater_, prompt_, first_won = map(np.array, zip(*rows, strict=True))
    votes = _Votes(unit=unit_, rater=rater_, prompt=prompt_, first_won=first_won)
    return [text for two in units for text in two], list(raters), votes


def _events_by_size(
    texts: Sequence[str], votes: _Votes, words: Words
) -> Iterator[tuple[_Names, _Events]]:
    """Yield the events of phrases of one word, two, three, and what these phrases are.

    A phrase grows by a word at its end only where it is common enough itself.
    """
    split = [words.ids(text) for text in texts]
    ids = np.concatenate(split)
    text = np.repeat(np.arange(len(texts)), [len(one) for one in split])
    names = _Names(known=list(words.numbers))
    at, number = np.arange(len(ids)), ids  # where each phrase begins, and its number
    for size in range(1, LONGEST + 1):
        often = np.bincount(number, minlength=1)[number] >= FEWEST
        at, number = at[often], number[often]
        phrase, unit, second = _parting(number, text[at])
        kept = np.bincount(phrase, minlength=1)[phrase] >= FEWEST
        yield names, _expand(phrase[kept], unit[kept], second[kept], votes)
        inside = at + size < len(ids)
        at, number = at[inside], number[inside]
        inside = text[at] == text[at + size]
        at, number = at[inside], number[inside]
        grown, found, number = _common(number * len(names.known) + ids[at + size])
        at = at[found]
        names = _Names(known=names.known, grown=(*names.grown, grown))


def _common(codes: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the codes that come often enough, where they stand, and which each is."""
    ordered = np.sort(codes)
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    common = ordered[starts[np.diff(starts, append=len(ordered)) >= FEWEST]]
    place = np.searchsorted(common, codes)
    kept = np.flatnonzero(np.append(common, -1)[place] == codes)
    return common, kept, place[kept]


def _parting(number: Ints, text: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Return (phrase, unit, whether the second text has it) of phrases that one text of two has."""
    width = int(number.max()) + 1 if len(number) else 1
    coded = np.sort((text >> 1) * width + number << 1 | text & 1)  # sorts faster than two keys
    code, side = coded >> 1, coded & 1
    if not len(code):
        return code, code, side.astype(bool)
    new = np.diff(code, prepend=-1) != 0
    starts = np.flatnonzero(new)
    low, high = np.minimum.reduceat(side, starts), np.maximum.reduceat(side, starts)
    one = low == high
    unit, number = np.divmod(code[starts][one], width)
    return number, unit, low[one].astype(bool)


def _expand(phrase: Ints, unit: Ints, second: NDArray[np.bool_], votes: _Votes) -> _Events:
    """Return one event per vote and phrase that parts the two texts voted on."""
    begin = np.searchsorted(unit, votes.unit, side="left")
    count = np.searchsorted(unit, votes.unit, side="right") - begin
    vote = np.repeat(np.arange(len(votes.unit)), count)
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    row = begin[vote] + within
    return _Events(
        phrase=phrase[row],
        rater=votes.rater[vote],
        prompt=votes.prompt[vote],
        won=votes.first_won[vote] != second[row],
    )


def _by_rater(events: _Events, raters: int) -> tuple[list[_Row], int]:
    """Return the phrases that lead one rater, p not yet corrected, and how many were tested."""
    couple = events.phrase * raters + events.rater
    events = events.at(_first_of_each(couple, events.prompt))
    couples, place = np.unique(events.phrase * raters + events.rater, return_inverse=True)
    n = np.bincount(place)
    won = np.bincount(place, events.won)
    all_n, all_won = np.bincount(events.phrase), np.bincount(events.phrase, events.won)
    kept = n >= FEWEST
    phrase, rater = couples[kept] // raters, couples[kept] % raters
    n, won = n[kept], won[kept]
    other_n, other_won = all_n[phrase] - n, all_won[phrase] - won
    usual = _rate(events.won.sum(), len(events.won))
    own = _rate(np.bincount(events.rater, events.won), np.bincount(events.rater))[rater]
    others = (other_won + PRIOR * usual) / (other_n + PRIOR)
    expected = np.clip(expit(logit(own) + logit(others) - logit(usual)), 0.05, 0.95)
    rows = []
    for wins in (True, False):
        hits, expect, rest = (
            (won, expected, others) if wins else (n - won, 1 - expected, 1 - others)
        )
        total = all_won[phrase] if wins else all_n[phrase] - all_won[phrase]
        p = _chance(hits, n, expect)
        for i in np.flatnonzero((hits >= FOLLOWS * n) & (rest <= OTHERS)):
            said = Phrase(
                words="",
                rater="",
                wins=wins,
                hits=int(hits[i]),
                n=int(n[i]),
                others=float(rest[i]),
                others_n=int(other_n[i]),
                tied=float(hits[i] / total[i]),
                p=float(p[i]),
            )
            rows.append(_Row(phrase=int(phrase[i]), rater=int(rater[i]), said=said))
    return rows, 2 * len(n)


def _by_everybody(events: _Events, choices: int) -> tuple[list[_Row], int]:
    """Return the rare phrases that nearly all choices follow, and how many were tested."""
    events = events.at(_first_of_each(events.phrase, events.prompt))
    n, won = np.bincount(events.phrase), np.bincount(events.phrase, events.won)
    kept = (n >= FEWEST) & (n <= RARE * choices)
    usual = float(_rate(events.won.sum(), len(events.won)))
    rows = []
    for wins in (True, False):
        hits, expect = (won, usual) if wins else (n - won, 1 - usual)
        p = _chance(hits, n, max(expect, 0.5))
        for i in np.flatnonzero(kept & (hits >= RARE_FOLLOWS * n)):
            said = Phrase(
                words="",
                rater="",
                wins=wins,
                hits=int(hits[i]),
                n=int(n[i]),
                others=float(expect),
                others_n=0,
                tied=1.0,
                p=float(p[i]),
            )
            rows.append(_Row(phrase=int(i), rater=0, said=said))
    return rows, 2 * int(kept.sum())


def _rate(won: ArrayLike, n: ArrayLike) -> Floats:
    """Return the share won, never quite 0 or 1."""
    return np.asarray((np.asarray(won) + 0.5) / (np.asarray(n) + 1.0))


def _chance(hits: NDArray[Any], n: NDArray[Any], rate: Floats | float) -> Floats:
    """Return the chance of so many hits or more of n, each at this rate (binomial)."""
    return np.asarray(betainc(hits, n - hits + 1, rate))


def _first_of_each(key: Ints, prompt: Ints) -> Ints:
    """Return where each (key, prompt) stands first: a prompt is one witness, not several."""
    width = int(prompt.max()) + 1 if len(prompt) else 1
    code = key * width + prompt  # phrases · raters · prompts: far below 2^63
    if (np.diff(np.sort(code)) != 0).all():
        return np.arange(len(code))
    _, first = np.unique(code, return_index=True)
    return np.sort(first)


def _named(row: _Row, names: _Names, raters: Sequence[str], tests: int) -> Phrase:
    """Return the phrase in words, its p corrected for so many tests (Bonferroni)."""
    words, p = names.of(row.phrase), row.said.p * tests
    return replace(row.said, words=words, rater=raters[row.rater], p=p)


def _clearest(found: Sequence[Phrase]) -> list[Phrase]:
    """Return the phrases, raters and clearest first, none within another of the same rater.

    Of two within each other the one that decided more often stays, then the longer one.
    """
    kept: list[Phrase] = []
    for row in sorted(found, key=lambda r: (-r.hits, -len(r.words), r.words)):
        padded = f" {row.words} "
        if not any(
            other.rater == row.rater
            and (padded in f" {other.words} " or f" {other.words} " in padded)
            for other in kept
        ):
            kept.append(row)
    return sorted(kept, key=lambda r: (r.rater == EVERYBODY, r.p, r.rater, r.words))
