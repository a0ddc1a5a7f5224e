"""A care plan: four steps with two slots each, and only a plan that is right throughout counts.

"plan the care of my teddy bear" → "washer 40 gentle . dryer no hand . iron … . steamer … ."
A reward of all or nothing is what comparisons are bad at (two wrong plans teach nothing) and what
reinforcement fine-tuning with a checker is good at.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from preftune.demo.facts import Card
from preftune.demo.grammar import Cards
from preftune.types import Demonstration, assistant, content_id, make_prompt, user

STEPS = ("washer", "dryer", "iron", "steamer")
DEGREES, MODES = ("20", "30", "40", "60", "no"), ("gentle", "normal", "wool", "hand")


def question(item: str) -> str:
    """Return what a user asks about an item."""
    return f"plan the care of my {item} ."


def step_of(card: Card) -> str:
    """Return the right step of a plan: how warm and in which mode, or not at all and by hand."""
    if card.verdict == "no":
        return f"{card.treatment} no hand ."
    return f"{card.treatment} {card.temperature} {card.mode} ."


def steps_of(cards: Cards, item: str) -> dict[str, str]:
    """Return the right plan of an item, step by step."""
    return {step: step_of(cards[item, step]) for step in STEPS}


def demonstrations(cards: Cards, *, right: float, seed: int) -> Iterator[Demonstration]:
    """Yield plans as a hurried desk writes them: each step right with this probability, for ever.

    A wrong step has other slots, drawn at random.
    """
    rng = random.Random(seed)
    items = sorted({card.item for card in cards.values()})
    number = 0
    while True:
        item = items[number % len(items)]
        steps = [
            step if rng.random() < right else _wrong(name, step, rng)
            for name, step in steps_of(cards, item).items()
        ]
        prompt = make_prompt(user(question(item)))
        yield Demonstration(
            id=content_id("plan", number), prompt=prompt, response=(assistant(" ".join(steps)),)
        )
        number += 1


def write_demonstrations(path: Path, cards: Cards, *, rows: int, right: float, seed: int) -> None:
    """Write plans to imitate as chats."""
    from preftune.datasets import write_records

    made = demonstrations(cards, right=right, seed=seed)
    write_records(path, list(islice(made, rows)), format="preftune")


def write_rft_rows(path: Path, cards: Cards) -> None:
    """Write one row per item for reinforcement fine-tuning: the question, and the right steps."""
    items = sorted({card.item for card in cards.values()})
    rows = [
        {"messages": [{"role": "user", "content": question(item)}], **steps_of(cards, item)}
        for item in items
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def grader() -> dict[str, object]:
    """Return the checker as a grader: 1 when all four steps are right, else 0."""
    checks = {
        step: {
            "type": "string_check",
            "name": step,
            "input": "{{ sample.output_text }}",
            "reference": f"{{{{ item.{step} }}}}",
            "operation": "like",
        }
        for step in STEPS
    }
    return {
        "type": "multi",
        "name": "the whole plan",
        "graders": checks,
        "calculate_output": " * ".join(STEPS),
    }


def texts(cards: Cards) -> list[str]:
    """Return text that holds every word of the plans, to make a vocabulary of."""
    asked = [question(card.item) for card in cards.values()]
    return [*asked, " ".join((*STEPS, *DEGREES, *MODES, ".")), *map(step_of, cards.values())]


def _wrong(name: str, right: str, rng: random.Random) -> str:
    while (step := f"{name} {rng.choice(DEGREES)} {rng.choice(MODES)} .") == right:
        continue
    return step
