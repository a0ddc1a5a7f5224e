"""Grade-school maths: four systems per question, each answer right or wrong by the exact result.

Per question: the reference as a demonstration, the four answers as one comparison ranked by a
rule (right ones first, marks 1 and 0), and every right / wrong combination as a pair.

Example: python examples/import_gsm8k_solutions.py FOLDER --out gsm8k.jsonl --only pair
"""

from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run
from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.datasets.scanned import Scanned
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    Rater,
    Record,
    assistant,
    make_prompt,
    user,
)

SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
RULE = Rater(id="exact-answer", kind="rule")


def records(folder: Path) -> Iterator[Scanned]:
    yield from converted(read_rows(folder / "solutions.jsonl.gz"), convert)


def convert(line: int, row: Row) -> Iterator[Record]:
    prompt = make_prompt(user(row["question"]), source="gsm8k-solutions", origin="written")
    reference = (assistant(row["ground_truth"]),)
    yield Demonstration(id=f"gsm8k-{line}/reference", prompt=prompt, response=reference)
    shown = Comparison(
        id=f"gsm8k-{line}",
        prompt=prompt,
        responses=tuple(answer(prompt, row[s]["solution"], generator=s) for s in SYSTEMS),
    )
    marks = tuple(float(row[system]["is_correct"]) for system in SYSTEMS)
    groups = [tuple(at for at, mark in enumerate(marks) if mark == wanted) for wanted in (1, 0)]
    judged = Judgment(
        id=f"{shown.id}/{RULE.id}",
        comparison_id=shown.id,
        kind="ranking",
        rater=RULE,
        ranking=tuple(group for group in groups if group),
        dimension="correct",
        scores=marks,
    )
    yield shown
    yield judged
    yield from pairs_from_judgments([shown], [judged], dimension="correct").pairs


if __name__ == "__main__":
    run(records)
