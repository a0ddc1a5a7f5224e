"""Which of two arguments convinces more: five crowd votes a pair, each with a written reason.

The label of the authors' MACE filter is a rater of kind rule, absent where they gave none. A
prompt is a debate and a stance; its tag debate=… lets a split keep a debate together. The
published worker competences are an estimate, not something a rater said, and stay behind.

Example: python examples/import_ukp_convarg.py FOLDER --out ukp.jsonl --pairs human
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run, verdict
from preftune.datasets.scanned import Scanned
from preftune.types import Comparison, Prompt, Rater, Record, Response, make_prompt, user

OUTCOMES = {"a1": 0, "equal": None, "a2": 1}
GOLD = Rater(id="mace-label", kind="rule")


def records(folder: Path) -> Iterator[Scanned]:
    arguments = {}
    for _, row in read_rows(folder / "arguments.jsonl.gz"):
        prompt = ask(row)
        arguments[row["arg_id"]] = (prompt, answer(prompt, row["text"], origin="written"))
    yield from converted(read_rows(folder / "pairs.jsonl.gz"), partial(convert, arguments))


def convert(
    arguments: dict[str, tuple[Prompt, Response]], _line: int, row: Row
) -> Iterator[Record]:
    prompt, first = arguments[row["a1"]]
    second = arguments[row["a2"]][1]
    shown = Comparison(id=f"ukp-{row['id']}", prompt=prompt, responses=(first, second))
    yield shown
    for vote in row["votes"]:
        rater = Rater(id=vote["worker"], kind="human")
        yield verdict(shown, rater, OUTCOMES[vote["value"]], said=vote["value"], why=vote["reason"])
    if row["gold"] is not None:
        yield verdict(shown, GOLD, OUTCOMES[row["gold"]], said=row["gold"])


def ask(row: Row) -> Prompt:
    text = f"{row['title']}\n\nGive a convincing argument for this side: {row['stance']}"
    tags = (f"debate={row['title']}",)
    return make_prompt(user(text), tags=tags, source="ukp-convarg", origin="written")


if __name__ == "__main__":
    run(records)
