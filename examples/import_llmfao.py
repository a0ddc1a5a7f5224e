"""Thirteen prompts, 59 models: crowd votes with ties, two judges, and the questions with gold.

`guideline` names the instruction the workers saw by its hash. The calibration questions are
comparisons too, judged by a rater called golden, with the reason.

Example: python examples/import_llmfao.py FOLDER --out llmfao.jsonl
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run, verdict
from preftune.datasets.scanned import Scanned
from preftune.files import sha256_of
from preftune.types import Comparison, Judgment, Rater, Record, make_prompt, user

OUTCOMES = {"left": 0, "tie": None, "right": 1}
JUDGES = {
    "gpt4": Rater(id="gpt-4", kind="judge"),
    "gpt3": Rater(id="gpt-3.5-turbo-instruct", kind="judge"),
}
GOLDEN = Rater(id="golden", kind="unknown")


def records(folder: Path) -> Iterator[Scanned]:
    guideline = f"crowd-instruction.md sha256:{sha256_of(folder / 'crowd-instruction.md')[:16]}"
    rows = read_rows(folder / "pairs-crowd.jsonl.gz")
    yield from converted(rows, partial(convert, guideline))
    yield from converted(read_rows(folder / "calibration.jsonl"), partial(calibration, guideline))


def convert(guideline: str, _line: int, row: Row) -> Iterator[Record]:
    tags = [f"slug={row['slug']}", f"type={row['type']}"]
    if row["note"]:
        tags.append(f"note={row['note']}")
    shown = comparison(
        row, (row["left"], row["right"]), (row["model_left"], row["model_right"]), tags
    )
    yield shown
    for vote in row["human"]:
        worker = Rater(id=f"worker-{vote['worker']}", kind="human")
        yield said_by(worker, shown, vote["winner"], guideline=guideline)
    for column, judge in JUDGES.items():
        yield said_by(judge, shown, row[column])


def calibration(guideline: str, _line: int, row: Row) -> Iterator[Record]:
    asked = {"id": row["id"], "prompt": row["text"]}
    models = (f"model {row['model_x']}", f"model {row['model_y']}")
    shown = comparison(asked, (row["result_x"], row["result_y"]), models, ["calibration"])
    yield shown
    yield said_by(GOLDEN, shown, row["golden"], guideline=guideline, why=row["reason"])


def comparison(
    row: Row, texts: tuple[str, str], models: tuple[str, str], tags: list[str]
) -> Comparison:
    prompt = make_prompt(user(row["prompt"]), tags=tuple(tags), source="llmfao", origin="written")
    sides = [answer(prompt, text, generator=m) for text, m in zip(texts, models, strict=True)]
    return Comparison(id=f"llmfao-{row['id']}", prompt=prompt, responses=tuple(sides))


def said_by(rater: Rater, shown: Comparison, said: str, **more: str) -> Judgment:
    return verdict(shown, rater, OUTCOMES[said], said=said, **more)


if __name__ == "__main__":
    run(records)
