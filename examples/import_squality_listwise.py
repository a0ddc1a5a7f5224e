"""Three answers to a question about a story, ranked and marked 0–100 in three dimensions.

Each reviewer's ranking is a judgment with marks; the notes on passages stand in `why` of the
overall one, a line each. The stories are not part of the set, so a prompt is the question alone
and its id names the story. The order in which reviewers saw the answers is not known.

Example: python examples/import_squality_listwise.py FOLDER --out squality.jsonl
"""

import json
from collections.abc import Iterator
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run
from preftune.datasets.scanned import Scanned
from preftune.types import (
    Comparison,
    Judgment,
    Prompt,
    Rater,
    Record,
    Response,
    ResponseOrigin,
    user,
)

DIMENSIONS = ("correctness", "selection", "overall")


def records(folder: Path) -> Iterator[Scanned]:
    yield from converted(read_rows(folder / "rankings.jsonl.gz"), convert)


def convert(_line: int, row: Row) -> Iterator[Record]:
    prompt = Prompt(
        id=f"squality-{row['passage_id']}-{row['question_index']}",
        messages=(user(row["question"]),),
        tags=(f"story={row['passage_id']}",),
        source="squality-listwise",
        origin="written",
    )
    systems = list(row["responses"])
    shown = Comparison(
        id=prompt.id,
        prompt=prompt,
        responses=tuple(respond(prompt, system, row["responses"][system]) for system in systems),
    )
    yield shown
    for review in row["reviews"]:
        marks = [review["by_system"][system] for system in systems]
        for dimension in DIMENSIONS:
            ranks = [mark[f"{dimension}-rank"] for mark in marks]
            rater = Rater(id=f"reviewer-{review['worker']}", kind="human")
            yield Judgment(
                id=f"{shown.id}/{rater.id}/{dimension}",
                comparison_id=shown.id,
                kind="ranking",
                rater=rater,
                ranking=tuple(groups(ranks)),
                dimension=dimension,
                scores=tuple(float(mark[f"{dimension}-rating"]) for mark in marks),
                why=notes(systems, marks) if dimension == "overall" else "",
            )


def respond(prompt: Prompt, system: str, text: str) -> Response:
    origin: ResponseOrigin = "written" if system == "human" else "sampled"
    return answer(prompt, text, generator=system, origin=origin)


def groups(ranks: list[int]) -> Iterator[tuple[int, ...]]:
    for rank in sorted(set(ranks)):
        yield tuple(place for place, found in enumerate(ranks) if found == rank)


def notes(systems: list[str], marks: list[Row]) -> str:
    said = [
        f"{system}: {json.dumps(note['selection'], ensure_ascii=False)}: {note['note']}"
        for system, mark in zip(systems, marks, strict=True)
        for note in mark["notes"]
    ]
    return "\n".join(said)


if __name__ == "__main__":
    run(records)
