"""Conversations with several replies ranked by people, English and Chinese.

A group is one ranked list. The English replies are also responses, `synthetic` or `human` as their
generator. Chinese groups that hold one answer twice are named and kept: a ranked list can hold
them, and pairs made from it leave out those with equal texts.

Example: python examples/import_oasst_rank.py FOLDER --out oasst.jsonl --only ranked
"""

from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run
from preftune.datasets.scanned import Problem, Scanned
from preftune.types import (
    Message,
    Prompt,
    Provenance,
    RankedList,
    Record,
    ResponseOrigin,
    assistant,
    make_prompt,
    user,
)

PROVENANCE = Provenance(source="oasst-rank", rater_kind="human")
DUPLICATE = Problem(
    kind="duplicate_answer",
    what="one answer stands at two ranks",
    fix="Kept as it is; no pair is made of equal texts.",
    fatal=False,
)


def records(folder: Path) -> Iterator[Scanned]:
    yield from converted(read_rows(folder / "en-groups.jsonl.gz"), english)
    yield from converted(read_rows(folder / "zh-ranked.jsonl.gz"), chinese)


def english(_line: int, row: Row) -> Iterator[Record]:
    turns = [Message(role=turn["role"], content=turn["content"]) for turn in row["messages"]]
    tags = ("lang=en", f"tree={row['tree']}")
    prompt = make_prompt(*turns, tags=tags, source="oasst-rank", origin="written")
    replies = sorted(row["ranked"], key=lambda reply: int(reply["rank"]))
    ranks = tuple(reply["rank"] for reply in replies)
    yield ranked_list(f"oasst-en-{row['parent']}", prompt, [r["text"] for r in replies], ranks)
    for reply in replies:
        who = "synthetic" if reply["synthetic"] else "human"
        origin: ResponseOrigin = "sampled" if reply["synthetic"] else "written"
        yield answer(prompt, reply["text"], generator=who, origin=origin)


def chinese(line: int, row: Row) -> Iterator[Record | Problem]:
    turns = [turn for asked, said in row["history"] for turn in (user(asked), assistant(said))]
    asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    prompt = make_prompt(
        *turns, user(asked), tags=("lang=zh",), source="oasst-rank", origin="written"
    )
    yield ranked_list(f"oasst-zh-{line}", prompt, row["output"], tuple(range(len(row["output"]))))
    if len(set(row["output"])) < len(row["output"]):
        yield DUPLICATE


def ranked_list(name: str, prompt: Prompt, texts: list[str], ranks: tuple[int, ...]) -> RankedList:
    responses = tuple((assistant(text),) for text in texts)
    return RankedList(
        id=name, prompt=prompt, responses=responses, ranks=ranks, provenance=PROVENANCE
    )


if __name__ == "__main__":
    run(records)
