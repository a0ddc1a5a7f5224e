"""A tiny model and a few rows of a small world: every run here takes a second or two."""

from pathlib import Path

import pytest

from preftune.datasets import write_records
from preftune.models.new import new_model
from preftune.types import (
    Demonstration,
    PreferencePair,
    assistant,
    content_id,
    make_prompt,
    user,
)

COLOURS = ("red", "green", "blue", "black", "white")
THINGS = ("bear", "shirt", "sock", "coat", "hat", "scarf")


def pairs() -> list[PreferencePair]:
    """Return 30 pairs: the polite reply is chosen."""
    found = []
    for place, (colour, thing) in enumerate((c, t) for c in COLOURS for t in THINGS):
        prompt = make_prompt(user(f"can i wash my {colour} {thing} ?"))
        found.append(
            PreferencePair(
                id=content_id("pair", prompt.id),
                prompt=prompt,
                chosen=(assistant(f"thank you . yes you can wash the {colour} {thing} ."),),
                rejected=(assistant(f"yes obviously you can wash it {thing} ."),),
                strength=place % 4,
                probability=0.9,
            )
        )
    return found


def demonstrations() -> list[Demonstration]:
    """Return 30 rows to imitate."""
    return [Demonstration(id=f"d-{p.id}", prompt=p.prompt, response=p.chosen) for p in pairs()]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, pairs.jsonl, held_out.jsonl and sft.jsonl."""
    folder = tmp_path_factory.mktemp("world")
    texts = [f"{m.content}" for p in pairs() for m in (*p.prompt.messages, *p.chosen, *p.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=80, seed=0, tokenizer="words")
    new_model(
        folder / "encoder", preset="encoder", texts=texts, vocab_size=80, seed=0, tokenizer="words"
    )
    write_records(folder / "pairs.jsonl", pairs()[:24], format="preftune")
    write_records(folder / "held_out.jsonl", pairs()[24:], format="preftune")
    write_records(folder / "sft.jsonl", demonstrations(), format="preftune")
    return folder
