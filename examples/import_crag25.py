"""Answers from retrieval, compared by five crowd workers in seven dimensions, some in both orders.

A pair shown the other way round is the `swap()` of the first. The language model's verdicts were
recorded in both orders: its `llm_swapped` on one row is its `llm` on the other, kept once. The
MACE labels are a rater of kind rule; per-worker spam probabilities are an estimate about raters,
nothing that a rater said, and stay behind. Grades 1..6 (6 is best) become ranked lists.

Example: python examples/import_crag25.py FOLDER --out crag25.jsonl
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from _importing import Row, answer, converted, read_rows, run, verdict
from preftune.datasets.scanned import Scanned
from preftune.types import (
    Comparison,
    Prompt,
    Provenance,
    RankedList,
    Rater,
    Record,
    Response,
    ResponseOrigin,
    assistant,
    user,
)

DIMENSIONS = {  # as the source calls them, and as the records do
    "correctness_topical": "correctness_topical",
    "coherence_logical": "coherence_logical",
    "coherence_stylistic": "coherence_stylistic",
    "coverage_broad": "coverage_broad",
    "coverage_deep": "coverage_deep",
    "consistency_internal": "consistency_internal",
    "quality_overall": "overall",
}
OUTCOMES = {"a": 0, "n": None, "b": 1}
GOLD = Rater(id="mace-label", kind="rule")


def records(folder: Path) -> Iterator[Scanned]:
    answers = {row["response"]: row for _, row in read_rows(folder / "responses.jsonl.gz")}
    yield from converted(read_rows(folder / "pairs.jsonl.gz"), partial(convert, answers))
    topics: dict[str, list[Row]] = {}
    for _, row in read_rows(folder / "grades.jsonl"):
        topics.setdefault(row["topic"], []).append({**answers[row["response"]], **row})
    for line, graded in enumerate(topics.values(), start=1):
        yield from (Scanned(line=line, record=ranked) for ranked in ranked_lists(graded))


def convert(answers: dict[str, Row], _line: int, row: Row) -> Iterator[Record]:
    shown = comparison(row, [answers[row["response_a"]], answers[row["response_b"]]])
    yield shown
    for name, dimension in DIMENSIONS.items():
        votes = zip(row["workers"], row[name]["votes"], strict=True)
        for worker, vote in votes:
            rater = Rater(id=worker, kind="human")
            yield verdict(shown, rater, OUTCOMES[vote], dimension=dimension, said=vote)
        gold = row[name]["gold"]
        yield verdict(shown, GOLD, OUTCOMES[gold], dimension=dimension, said=gold)
        for mode, said in (row["llm"] or {}).items():
            judge = Rater(id=f"llm-{mode}", kind="judge")
            vote = said[name]
            yield verdict(shown, judge, OUTCOMES[vote], dimension=dimension, said=vote)


def comparison(row: Row, answers: list[Row]) -> Comparison:
    """Return the two answers as shown; the id belongs to the order in which their ids sort."""
    prompt = ask(row["query_id"], row["query"])
    first, second = sorted(answers, key=lambda found: str(found["response"]))
    sides = (respond(prompt, first), respond(prompt, second))
    name = f"crag25-{first['response']}-{second['response']}"
    base = Comparison(id=name, prompt=prompt, responses=sides)
    return base if answers[0] is first else base.swap()


def ranked_lists(graded: list[Row]) -> Iterator[RankedList]:
    prompt = ask(graded[0]["topic"], graded[0]["query"])
    for name, dimension in DIMENSIONS.items():
        best_first = sorted(graded, key=lambda row: -row[name])
        yield RankedList(
            id=f"{prompt.id}/{dimension}",
            prompt=prompt,
            responses=tuple((assistant(row["text"]),) for row in best_first),
            ranks=tuple(7 - row[name] for row in best_first),
            dimension=dimension,
            scores=tuple(float(row[name]) for row in best_first),
            provenance=Provenance(source="crag25", raters=("bradley-terry",), rater_kind="rule"),
        )


def ask(topic: str, query: str) -> Prompt:
    return Prompt(id=f"crag25-{topic}", messages=(user(query),), source="crag25", origin="log")


def respond(prompt: Prompt, row: Row) -> Response:
    generator = f"{row['kind']}-{row['style']}"
    origin: ResponseOrigin = "sampled" if row["kind"] == "llm" else "written"
    return answer(prompt, row["text"], generator=generator, origin=origin)


if __name__ == "__main__":
    run(records)
