"""Does the better response win, or the longer, bolder, merrier one? Sign and size of each habit."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.datasets.audit_logistic import fit_logistic
from preftune.datasets.audit_material import LinedPair, Material, answer
from preftune.datasets.audit_parts import (
    AuditFinding,
    AuditSection,
    AuditTable,
    Bars,
    Estimate,
    bar,
    number,
    percent,
    share_estimate,
    share_finding,
    shared_level,
)
from preftune.stats.intervals import z_value

Array = NDArray[np.float64]
MARGIN = 0.02  # a habit that wins in 48 to 52 % of the pairs is no bias worth a word
FEWEST = 20  # pairs in which the two responses differ in a habit
RIDGE = 0.01
OPENING = 300  # characters in which an answer refuses or apologises, if it does
HALVES = 2  # style is judged on prompts that its weights were not fitted on

LIST_ITEM = re.compile(r"\n[ \t]*(?:[-*+•]|\d{1,3}[.)])\s+\S")  # these two see a line end first
HEADER = re.compile(r"\n\s{0,3}#{1,6}\s+\S")
BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
CODE = re.compile(r"```|`[^`\n]+`")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\U0001f1e6-\U0001f1ff]")
REFUSAL = re.compile(
    r"\b(?:i|we)\s*(?:['’]?m|\s+am|\s+are)?\s*(?:sorry,?\s+but|cannot|can['’]?t|can not|"
    r"unable to|not able to|won['’]?t|will not|not comfortable)\b|\bas an ai\b|"
    r"\bagainst my (?:guidelines|programming)\b"
)
REFUSING = ("can", "sorry", "able", "won", "will", "not com", "as an ai", "against my")
"""No refusal without one of these."""
APOLOGY = re.compile(
    r"\b(?:i|we)(?:['’]?m|\s+am|['’]?re|\s+are)?\s+(?:(?:so|very|really|truly|deeply)\s+)?"
    r"(?:sorry|apologi[sz]e)\b|\bmy apologies\b"
)

LENGTH_FIX = (
    "Say in the guideline whether length is a merit; tune with a loss that controls for it "
    "(r_dpo, ld_dpo, simpo) and compare at equal length."
)
STYLE_FIX = "Say in the guideline whether it is a merit, and read some pairs that differ in it."


def _refuses(text: str) -> bool:
    opening = text[:OPENING].lower()
    return any(word in opening for word in REFUSING) and bool(REFUSAL.search(opening))


def _apologises(text: str) -> bool:
    opening = text[:OPENING].lower()
    return ("sorry" in opening or "apolog" in opening) and bool(APOLOGY.search(opening))


HABITS: dict[str, Callable[[str], int]] = {
    "length": len,
    "list": lambda text: len(LIST_ITEM.findall(f"\n{text}")),
    "headers": lambda text: "#" in text and len(HEADER.findall(f"\n{text}")),
    "bold": lambda text: ("**" in text or "__" in text) and len(BOLD.findall(text)),
    "code": lambda text: "`" in text and len(CODE.findall(text)),
    "refusal": _refuses,
    "emoji": lambda text: not text.isascii() and len(EMOJI.findall(text)),
    "questions": lambda text: text.count("?") + text.count("？"),
    "exclamations": lambda text: text.count("!") + text.count("！"),
    "apology": _apologises,
}
"""What is counted in an answer; refusals and apologies open it or do not."""
MORE = {
    "length": "the longer response",
    "list": "the response with more list items",
    "headers": "the response with more headers",
    "bold": "the response with more in bold",
    "code": "the response with more code",
    "refusal": "the response that refuses",
    "emoji": "the response with more emoji",
    "questions": "the response that asks more questions",
    "exclamations": "the response with more exclamation marks",
    "apology": "the response that apologises",
}
"""The response with more of a habit, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Habit:
    """How often the response with more of it won, of the pairs in which the two differ."""

    name: str
    share: Estimate | None  # None: too few pairs differ
    pairs: int  # that differ
    adjusted: Estimate | None  # nats for all of it against none, all other habits equal
    sign: int  # 1: more of it wins, -1: less, 0: cannot be told, all habits together at 95 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """What the habits of the responses say about who won."""

    habits: tuple[Habit, ...]
    length_only: Estimate | None  # share of pairs that the better of two rules on length gets right
    length_rule: str
    style_only: Estimate | None  # share that all habits together get right, on unseen prompts


def style_section(material: Material) -> AuditSection:
    """Return which habits win, alone and with all others held equal, and what style alone gets."""
    counted = counts(material.pairs)
    if not counted[..., 0].any():
        text = "No pair holds any text, so nothing can be said of length and style."
        return AuditSection(title="Length and style", text=text)
    found = style_of(counted, material.clusters(material.pairs))
    findings = [_habit_finding(habit, habit.share) for habit in found.habits if habit.share]
    findings += _rule_findings(found)
    shown = [habit for habit in found.habits if habit.share is not None]
    shares = tuple(bar(habit.name, habit.share) for habit in shown if habit.share)
    nats = tuple(bar(habit.name, habit.adjusted) for habit in shown if habit.adjusted)
    bars = [
        Bars(
            name="style",
            title="How often the response with more of it wins",
            unit="share of pairs that differ in it",
            reference=0.5,
            rows=shares,
        ),
        Bars(
            name="style-adjusted",
            title="The same with all other habits held equal",
            unit="nats, all of it against none",
            reference=0.0,
            rows=nats,
        ),
    ]
    return AuditSection(
        title="Length and style",
        text="The sign of a habit belongs to the data: people here may like what they dislike "
        "elsewhere. What counts is the last assistant turn.",
        findings=tuple(findings),
        tables=(_table(found),),
        bars=tuple(one for one in bars if one.rows),
    )


def counts(pairs: Sequence[LinedPair]) -> Array:
    """Return how much of each habit is in the chosen and the rejected answer, [N, 2, D]."""
    found = np.zeros((len(pairs), 2, len(HABITS)))
    seen: dict[str, list[int]] = {}
    for row, lined in enumerate(pairs):
        for side, messages in enumerate((lined.pair.chosen, lined.pair.rejected)):
            text = answer(messages)
            if text not in seen:
                seen[text] = [count(text) for count in HABITS.values()]
            found[row, side] = seen[text]
    return found


def style_of(counted: Array, prompts: Sequence[str]) -> Style:
    """Return the sign and size of every habit, from what `counts` counted.

    Args:
        counted: how much of each habit is in chosen and rejected, [N, 2, D].
        prompts: the cluster of each pair.
    """
    tilts = relative(counted)
    fitted = _adjusted(tilts, prompts)
    shared = shared_level(len(HABITS))
    habits = []
    for place, name in enumerate(HABITS):
        tilt = tilts[:, place]
        differ = np.flatnonzero(tilt).tolist()
        share, sign = None, 0
        if len(differ) >= FEWEST:
            wins, where = (tilt[differ] > 0).astype(float).tolist(), [prompts[i] for i in differ]
            share = share_estimate(wins, where)
            sign = share_estimate(wins, where, level=shared).side(margin=MARGIN)
        adjusted = fitted.get(place) if share is not None else None
        habits.append(
            Habit(name=name, share=share, pairs=len(differ), adjusted=adjusted, sign=sign)
        )
    rule, length_only = _length_only(tilts[:, 0], prompts)
    return Style(
        habits=tuple(habits),
        length_only=length_only,
        length_rule=rule,
        style_only=_style_only(tilts, prompts),
    )


def relative(counted: Array) -> Array:
    """Return (chosen - rejected) / (chosen + rejected) of each habit, [N, D], 0 where both lack it.

    1 is all of it in chosen and none in rejected, so habits of any unit stand beside each other.
    """
    chosen, rejected = counted[:, 0], counted[:, 1]
    both = chosen + rejected
    return np.divide(chosen - rejected, both, out=np.zeros_like(both), where=both > 0)


def _adjusted(tilts: Array, prompts: Sequence[str]) -> dict[int, Estimate]:
    """Return the coefficient of each habit that enough pairs differ in, by its place."""
    used = [place for place in range(tilts.shape[1]) if np.count_nonzero(tilts[:, place]) >= FEWEST]
    groups = len(set(prompts))
    if not used or groups < 2:
        return {}
    fitted = fit_logistic(tilts[:, used], np.ones(len(tilts)), prompts, ridge=RIDGE)
    z = z_value(0.95)
    return {
        place: Estimate(value=float(w), low=float(w - z * se), high=float(w + z * se), n=groups)
        for place, w, se in zip(used, fitted.weights, fitted.errors, strict=True)
    }


def _length_only(tilt: Array, prompts: Sequence[str]) -> tuple[str, Estimate | None]:
    """Return the better of "longer wins" and "shorter wins", and how often it is right."""
    if not len(tilt):
        return "", None
    longer = np.count_nonzero(tilt > 0) >= np.count_nonzero(tilt < 0)
    right = (tilt > 0) if longer else (tilt < 0)
    rule = "longer wins" if longer else "shorter wins"
    return rule, share_estimate(right.astype(float).tolist(), prompts)


def _style_only(tilts: Array, prompts: Sequence[str]) -> Estimate | None:
    """Return how often a model of all habits is right on prompts it was not fitted on.

    Prompts are halved by a hash; a difference of 0 counts as half right.
    """
    half = np.array([hashlib.sha256(p.encode()).digest()[0] % HALVES for p in prompts])
    right = np.full(len(prompts), 0.5)
    for part in range(HALVES):
        rest = np.flatnonzero(half != part)
        where = [prompts[i] for i in rest.tolist()]
        if len(set(where)) < FEWEST or not tilts[rest].any():
            return None
        fitted = fit_logistic(tilts[rest], np.ones(len(rest)), where, ridge=RIDGE)
        right[half == part] = 0.5 + 0.5 * np.sign(tilts[half == part] @ fitted.weights)
    return share_estimate(right.tolist(), prompts)


def _habit_finding(habit: Habit, share: Estimate) -> AuditFinding:
    more = MORE[habit.name]
    words = {1: f"{more} wins MORE often", -1: f"{more} wins LESS often", 0: "no direction"}
    return share_finding(
        "length" if habit.name == "length" else f"style_{habit.name}",
        share,
        what=f"{habit.name}: {words[habit.sign]} ({habit.pairs:,} pairs differ in it)",
        verdict="look" if habit.sign else "ok",
        fix=LENGTH_FIX if habit.name == "length" else STYLE_FIX,
    )


def _rule_findings(found: Style) -> list[AuditFinding]:
    made = []
    if found.length_only is not None:
        made.append(
            share_finding(
                "length_only",
                found.length_only,
                what=f'Pairs that "{found.length_rule}" gets right: a reward model must beat it',
                verdict="ok",
            )
        )
    if found.style_only is not None:
        made.append(
            share_finding(
                "style_only",
                found.style_only,
                what="Pairs that length and style together get right, on prompts not fitted on",
                verdict="ok",
            )
        )
    return made


def _table(found: Style) -> AuditTable:
    def row(habit: Habit) -> tuple[str, ...]:
        share = percent(habit.share) if habit.share else "too few"
        nats = number(habit.adjusted, digits=2) if habit.adjusted else ""
        word = {1: "wins", -1: "loses", 0: "no direction"}[habit.sign] if habit.share else ""
        return habit.name, f"{habit.pairs:,}", share, word, nats

    return AuditTable(
        title="Habits",
        header=("habit", "pairs that differ", "more of it wins", "sign", "nats, all else equal"),
        rows=tuple(map(row, found.habits)),
    )
