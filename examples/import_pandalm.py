"""Instruction pairs with three annotators and two judges; its authors removed divergent items.

Annotators say 1, 2 or 0 (similar). A judge's answer that is none of these ("garbage") is kept as
unparsed. A row whose response is a JSON boolean has lost its text: it is refused, though what was
said about it can still be counted. An empty response is kept and named.

Example: python examples/import_pandalm.py FOLDER --out pandalm.jsonl
"""

from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run, unparsed, verdict
from preftune.datasets.scanned import Problem, Scanned
from preftune.types import Comparison, Rater, Record, make_prompt, user

OUTCOMES = {"1": 0, "2": 1, "0": None, "Tie": None}
JUDGES = {
    "gpt35": Rater(id="gpt-3.5-turbo", kind="judge"),
    "pandalm7b": Rater(id="pandalm-7b", kind="judge"),
}


def records(folder: Path) -> Iterator[Scanned]:
    yield from converted(read_rows(folder / "testset-v1.jsonl.gz"), convert)


def convert(_line: int, row: Row) -> Iterator[Record | Problem]:
    texts = [row["response1"], row["response2"]]
    yield from problems(texts)
    asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
    tag = f"application={row['motivation_app']}"
    prompt = make_prompt(user(asked), tags=(tag,), source="pandalm", origin="written")
    models = row["cmp_key"].split("_")
    sides = [answer(prompt, str(t), generator=m) for t, m in zip(texts, models, strict=True)]
    shown = Comparison(id=f"pandalm-{row['idx']}", prompt=prompt, responses=tuple(sides))
    yield shown
    for number in (1, 2, 3):
        said = str(row[f"annotator{number}"])
        yield verdict(
            shown, Rater(id=f"annotator-{number}", kind="human"), OUTCOMES[said], said=said
        )
    for column, judge in JUDGES.items():
        said, why = str(row[column]["result"]), row[column]["reason"]
        if said in OUTCOMES:
            yield verdict(shown, judge, OUTCOMES[said], said=said, why=why)
        else:
            yield unparsed(shown, judge, said=said, why=why)


def problems(texts: list[object]) -> Iterator[Problem]:
    if any(isinstance(text, bool) for text in texts):
        what = "a response is a JSON boolean, its text is lost"
        yield Problem(kind="boolean_response", what=what, fix="Leave the row out.")
    if any(isinstance(text, str) and not text.strip() for text in texts):
        what = "a response is empty"
        yield Problem(kind="empty_response", what=what, fix="Kept as judged.", fatal=False)


if __name__ == "__main__":
    run(records)
