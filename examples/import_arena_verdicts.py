"""Arena battles of 20 models: verdicts of people and of three judges, no texts.

The responses are empty and carry the name of their model, so ratings and judge checks work and
training refuses them. That model_a was shown first is inferred from the judges' verdicts; the
source does not say so. Both kinds of tie stay apart in `said`: tie, bothbad.

Example: python examples/import_arena_verdicts.py FOLDER --out arena.jsonl
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, run, verdict
from preftune.datasets.scanned import Scanned
from preftune.types import Comparison, Prompt, Rater, Record, user

RATERS = {
    "human": Rater(id="arena-visitor", kind="human"),
    "gpt4": Rater(id="gpt-4-0125-preview", kind="judge"),
    "claude3opus": Rater(id="claude-3-opus-20240229", kind="judge"),
    "gpt35": Rater(id="gpt-3.5-turbo", kind="judge"),
}
OUTCOMES = {"a": 0, "b": 1, "tie": None, "bothbad": None}


def records(folder: Path) -> Iterator[Scanned]:
    with gzip.open(folder / "verdicts.csv.gz", "rt", encoding="utf-8", newline="") as file:
        yield from converted(enumerate(csv.DictReader(file), start=2), convert)


def convert(line: int, row: Row) -> Iterator[Record]:
    prompt = Prompt(id=f"arena-{row['question_id']}", messages=(user(""),), source="arena-verdicts")
    models = (row["model_a"], row["model_b"])
    responses = tuple(answer(prompt, "", generator=model) for model in models)
    shown = Comparison(id=f"arena-{line}", prompt=prompt, responses=responses)
    yield shown
    for column, rater in RATERS.items():
        yield verdict(shown, rater, OUTCOMES[row[column]], said=row[column])


if __name__ == "__main__":
    run(records)
