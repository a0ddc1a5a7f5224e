"""Two-turn questions in eight categories; no preferences inside.

A question is two prompts: its first turn, and both turns together, tagged turn=2. Between the two
user turns of the second belongs the answer that the model under test gave to the first. The
references by GPT-4 and by the authors are responses to these prompts.

Example: python examples/import_mtbench_prompts.py FOLDER --out mtbench.jsonl --only prompt
"""

from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run
from preftune.datasets.scanned import Scanned
from preftune.types import Prompt, Record, user


def records(folder: Path) -> Iterator[Scanned]:
    yield from converted(read_rows(folder / "questions.jsonl"), convert)


def convert(_line: int, row: Row) -> Iterator[Record]:
    turns = tuple(user(text) for text in row["turns"])
    for turn in range(1, len(turns) + 1):
        prompt = Prompt(
            id=f"mtbench-{row['question_id']}-{turn}",
            messages=turns[:turn],
            tags=(f"category={row['category']}", f"turn={turn}"),
            source="mtbench-prompts",
            origin="written",
        )
        yield prompt
        if row["gpt4_reference"]:
            yield answer(prompt, row["gpt4_reference"][turn - 1], generator="gpt-4")
        if row.get("reference"):
            written = row["reference"][turn - 1]
            yield answer(prompt, written, generator="authors", origin="written")


if __name__ == "__main__":
    run(records)
