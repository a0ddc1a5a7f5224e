"""How the lead's pages say things: verdicts in words, answers of a form as verdicts."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from preftune.comparisons.scales import EQUAL
from preftune.errors import DataError
from preftune.store.items import Content, Item, Verdict, as_imported
from preftune.types import Response

LETTERS = string.ascii_uppercase
GRADE_WORDS = (
    "A much better",
    "A better",
    "A slightly better",
    "about equal",
    "B slightly better",
    "B better",
    "B much better",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One answer that a form offers."""

    value: str
    words: str
    key: str  # on the keyboard
    tie: bool = False


def in_words(verdict: Verdict) -> str:
    """Return a verdict as people say it, responses named A, B, … in the order it counts in.

    Grade 2 is "A better"; a ranking of 1, then 0 and 2 together, is "B, then A = C".
    """
    match verdict["kind"]:
        case "tie":
            return "tie"
        case "binary":
            return f"{LETTERS[verdict['choice']]} better"
        case "scale":
            return GRADE_WORDS[verdict["grade"] - 1]
        case "ranking":
            groups = (" = ".join(LETTERS[at] for at in group) for group in verdict["ranking"])
            return ", then ".join(groups)
        case _:
            return "rewritten"


def as_shown(verdict: Verdict, shown: Sequence[int]) -> Verdict:
    """Return a verdict on responses as imported as one on responses as shown."""
    return as_imported(verdict, [shown.index(place) for place in range(len(shown))])


def choices(kind: str, responses: int, *, tie: bool) -> list[Choice]:
    """Return what one may answer in each dimension; none for rankings and rewrites."""
    if kind == "scale":
        offered = [
            Choice(value=str(grade), words=words, key=str(grade), tie=grade == EQUAL)
            for grade, words in enumerate(GRADE_WORDS, 1)
        ]
        return offered if tie else [choice for choice in offered if not choice.tie]
    if kind != "binary":
        return []
    offered = [
        Choice(value=str(at), words=f"{LETTERS[at]} better", key=str(at + 1))
        for at in range(responses)
    ]
    return [*offered, Choice(value="tie", words="tie", key="T", tie=True)] if tie else offered


def verdict_of(kind: str, answer: str) -> Verdict:
    """Return the verdict that an answer of a form means.

    A grade, the place of a response, `tie`, the places in a ranking such as `2,1,2` (equal places
    are a tie), or the text of a rewrite.

    Raises:
        DataError: not an answer to this kind.
    """
    if kind == "rewrite":
        return {"kind": kind, "rewrite": answer}
    if answer == "tie":
        return {"kind": "tie"}
    parts = answer.split(",")
    if not all(part.isascii() and part.isdecimal() and len(part) < 4 for part in parts):
        raise DataError(f"answer: {answer[:20]!r} is none. Choose one for each dimension.")
    numbers = [int(part) for part in parts]
    if kind == "ranking":
        groups = [
            [at for at, place in enumerate(numbers) if place == wanted]
            for wanted in sorted(set(numbers))
        ]
        return {"kind": kind, "ranking": groups}
    return {"kind": kind, ("grade" if kind == "scale" else "choice"): numbers[0]}


def answer_of(verdict: Verdict, responses: int) -> str:
    """Return the answer of a form that means a verdict; undoes `verdict_of`."""
    match verdict["kind"]:
        case "scale":
            return str(verdict["grade"])
        case "binary":
            return str(verdict["choice"])
        case "ranking":
            place = {at: n for n, group in enumerate(verdict["ranking"], 1) for at in group}
            return ",".join(str(place[at]) for at in range(responses))
        case "rewrite":
            return str(verdict["rewrite"])
        case kind:
            return str(kind)


def in_order(it: Item, shown: Sequence[int]) -> Content:
    """Return the prompt and responses of an item in the order shown."""
    responses = tuple(it.content.responses[at] for at in shown)
    return Content(prompt=it.content.prompt, responses=responses)


def source_of(response: Response) -> list[tuple[str, str]]:
    """Return what is known of how a response came to be, as names and values."""
    told = [("generator", response.generator or "not said"), ("origin", response.origin)]
    if (sampling := response.sampling) is not None:
        told += [
            ("temperature", f"{sampling.temperature:g}"),
            ("top-p", f"{sampling.top_p:g}"),
            ("top-k", str(sampling.top_k)),
            ("longest", f"{sampling.max_new_tokens} tokens"),
            ("sampling seed", str(sampling.seed)),
        ]
    if not response.finished:
        told.append(("cut", "at the longest length"))
    return told
