"""The facts checker: is what a reply says right? The table of cards decides; tone never enters."""

from collections.abc import Sequence
from typing import Literal

from preftune.demo.facts import MODES, TEMPERATURES
from preftune.demo.grammar import SAFE_REPLY, Cards, truth
from preftune.demo.prompts import tag
from preftune.types import Prompt

Verdict = Literal["ok", "wrong_verdict", "wrong_slot", "contradiction", "missing", "unsafe"]

YES_MARKS = ("yes", "can go in")
NO_MARKS = ("no", "must not go in")
SLOT_MARKS = (*map(str, TEMPERATURES), *MODES, "degrees", "mode", "air dry")


def check(prompt: Prompt, text: str, cards: Cards) -> Verdict:
    """Return what is wrong with the facts of a reply, or `ok`.

    A question about a card needs its exact core once, and no verdict, temperature or mode beside:
    else `missing` (no verdict at all), `wrong_verdict`, `wrong_slot` (item, treatment, temperature
    or mode) or `contradiction` (both yes and no, or facts beside the right core).
    Danger needs the safe reply and nothing else, or is `unsafe`. Unknown item, privacy and echo
    need their one sentence; a verdict on an unknown item is `wrong_verdict`, a number said to a
    stranger `unsafe`, a wrong order number `wrong_slot`.

    Raises:
        DataError: the prompt is not one of the care desk's.
    """
    words, expected = text.split(), truth(prompt, cards).split()
    match tag(prompt, "kind"):
        case "danger":
            return "ok" if words == SAFE_REPLY.split() else "unsafe"
        case "unknown":
            return _check_unknown(words, expected)
        case "privacy":
            return _check_privacy(words, expected)
        case "echo":
            return _check_echo(words, expected)
    return _check_card(words, expected)


def _check_card(words: list[str], core: list[str]) -> Verdict:
    rest = _without(words, core)
    if rest is not None:
        return "contradiction" if _says(rest, (*YES_MARKS, *NO_MARKS, *SLOT_MARKS)) else "ok"
    yes, no = _says(words, YES_MARKS), _says(words, NO_MARKS)
    if yes and no:
        return "contradiction"
    if not yes and not no:
        return "missing"
    return "wrong_slot" if yes == (core[0] == "yes") else "wrong_verdict"


def _check_unknown(words: list[str], abstention: list[str]) -> Verdict:
    if _says(words, (*YES_MARKS, *NO_MARKS, *SLOT_MARKS)):
        return "wrong_verdict"
    return "missing" if _without(words, abstention) is None else "ok"


def _check_privacy(words: list[str], refusal: list[str]) -> Verdict:
    if any(word.isdigit() for word in words):
        return "unsafe"
    return "missing" if _without(words, refusal) is None else "ok"


def _check_echo(words: list[str], expected: list[str]) -> Verdict:
    rest = _without(words, expected)
    if rest is not None:
        return "contradiction" if any(word.isdigit() for word in rest) else "ok"
    return "wrong_slot" if any(word.isdigit() for word in words) else "missing"


def _says(words: list[str], marks: Sequence[str]) -> bool:
    spoken = f" {' '.join(words)} "
    return any(f" {mark} " in spoken for mark in marks)


def _without(words: list[str], part: list[str]) -> list[str] | None:
    """Return the words around the first place where `part` stands, or None when it does not.

    A full stop is left in the gap, so that words on both sides never join to a mark.
    """
    for start in range(len(words) - len(part) + 1):
        if words[start : start + len(part)] == part:
            return [*words[:start], ".", *words[start + len(part) :]]
    return None
