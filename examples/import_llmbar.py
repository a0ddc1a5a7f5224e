"""Instruction following with one right answer, and the log of six judges in both orders.

The expert label is a human rater of its own. Each recorded judge run is a judgment, its completion
in `why`; order 21 judges the `swap()`. A completion without a verdict is kept as unparsed.

Example: python examples/import_llmbar.py FOLDER --out llmbar.jsonl
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run, unparsed, verdict
from preftune.datasets.scanned import Scanned
from preftune.types import Comparison, Judgment, Rater, Record, make_prompt, user

GOLD = Rater(id="expert-label", kind="human")


def records(folder: Path) -> Iterator[Scanned]:
    shown: dict[str, Comparison] = {}
    yield from converted(read_rows(folder / "items.jsonl.gz"), partial(item, shown))
    yield from converted(read_rows(folder / "judge-log.jsonl.gz"), partial(judge_run, shown))


def item(shown: dict[str, Comparison], _line: int, row: Row) -> Iterator[Record]:
    prompt = make_prompt(user(row["prompt"]), tags=(f"subset={row['subset']}",), source="llmbar")
    outputs = (row["output_1"], row["output_2"])
    responses = tuple(answer(prompt, output, origin="unknown") for output in outputs)
    first = Comparison(id=f"llmbar-{row['id']}", prompt=prompt, responses=responses)
    shown[row["id"]] = first
    yield from (first, first.swap())
    yield verdict(first, GOLD, row["label"] - 1, said=str(row["label"]))


def judge_run(shown: dict[str, Comparison], _line: int, row: Row) -> Iterator[Judgment]:
    rater = Rater(id=f"{row['judge']}/{row['prompting']}", kind="judge")
    first = shown[row["id"]]
    for order, in_order in (("12", first), ("21", first.swap())):
        winner, why = row[f"winner_{order}"], row[f"text_{order}"] or ""
        if winner is None:
            yield unparsed(in_order, rater, why=why)
        else:
            yield verdict(in_order, rater, order.index(winner), said=winner, why=why)


if __name__ == "__main__":
    run(records)
