"""Two models' answers compared by people on five points, each answer also acceptable or not.

The first order of a comparison has the alphabetically first model first; shown the other way it is
the `swap()`, so a unit seen in both orders stays one unit. Five points are grades 2..6; marks are
acceptable 1 / 0 in the order shown.

Example: python examples/import_tulu1_human.py FOLDER --out tulu1.jsonl
"""

from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run
from preftune.comparisons.scales import grade_from_five
from preftune.datasets.scanned import Scanned
from preftune.types import Comparison, Judgment, Rater, Record, make_prompt, user

LEVELS = ("a-is-better", "a-is-slightly-better", "tie", "b-is-slightly-better", "b-is-better")
ACCEPTABLE = {"yes": 1.0, "no": 0.0}


def records(folder: Path) -> Iterator[Scanned]:
    seen: set[str] = set()
    for scanned in converted(read_rows(folder / "annotations.jsonl.gz"), convert):
        if isinstance(scanned.record, Comparison):
            if scanned.record.id in seen:  # several people judged it
                continue
            seen.add(scanned.record.id)
        yield scanned


def convert(_line: int, row: Row) -> Iterator[Record]:
    shown = comparison(row)
    yield shown
    yield Judgment(
        id=f"tulu1-{row['id']}",
        comparison_id=shown.id,
        kind="scale",
        rater=Rater(id=row["evaluator"], kind="human"),
        grade=grade_from_five(LEVELS.index(row["preference"]) + 1),
        scores=tuple(ACCEPTABLE[row[f"completion_{side}_is_acceptable"]] for side in "ab"),
        said=row["preference"],
        why=row["comment"] or "",
        at=row["timestamp"],
    )


def comparison(row: Row) -> Comparison:
    prompt = make_prompt(user(row["prompt"]), source="tulu1-human", origin="written")
    sides = [
        answer(prompt, row[f"completion_{side}"], generator=row[f"model_{side}"]) for side in "ab"
    ]
    first, second = sorted(sides, key=lambda side: side.generator or "")
    name = f"tulu1-{row['instance_id']}-{first.generator}-{second.generator}"
    base = Comparison(id=name, prompt=prompt, responses=(first, second))
    return base if sides[0] is first else base.swap()


if __name__ == "__main__":
    run(records)
