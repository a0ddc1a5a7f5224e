"""Grade a file of answers and write one line each; stopped at any moment, it goes on later."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from preftune.errors import DataError, RowError
from preftune.fields import mapping, need, text
from preftune.files import atomic_open, open_binary, sha256_of
from preftune.graders.model_graders import Row
from preftune.graders.results import GradeResult
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Item, Sample
from preftune.lines import RawRow, RefusedError, guarded, head_of, json_rows
from preftune.progress import progress
from preftune.prompts.rows import check_paths
from preftune.records import decode
from preftune.responses.journal import Journal
from preftune.text import visible
from preftune.types import Response, content_id

AT_ONCE = 256  # rows; that many are graded again when the power fails


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One answer to grade, under the ids it is written with."""

    response_id: str
    prompt_id: str
    row: Row
    answers_item: bool = False  # a response, whose item comes from the file of items


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One line of the file that is written; `score` is None when the grading went wrong."""

    response_id: str
    prompt_id: str
    score: float | None
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeReport:
    """What was graded; the mean is over what has a score, None when nothing has."""

    rows: int
    mean: float | None
    kept: int  # from an earlier run
    errors: Counter[str]
    problems: dict[str, str]  # the first of each kind, fit to show


def grade_file(
    runner: GraderRunner, source: Path, *, out: Path, items: Path | None = None
) -> GradeReport:
    """Grade every answer of a file and write `out`, in the same order, whole or not at all.

    Args:
        runner: the grader, open.
        source: JSON lines: `{"sample": text, "item": {…}}`, or response records with `items`.
        out: one line each: response_id, prompt_id, score, sub_rewards, errors, problem.
        items: the RFT rows that the responses answer.

    Raises:
        DataError: a row that is neither, a response whose prompt is not among the items, items
            that no row needs, `out` in the place of an input, or an unfinished grading of
            something else in the way.
    """
    check_paths([source, items], [out])
    tasks = list(_tasks(source, items_of(read_rft_rows(items)) if items else None))
    if items and not any(task.answers_item for task in tasks):
        raise DataError(f"{source}: its lines bring their own items. Leave {items} out.")
    key = content_id("g", runner.key, sha256_of(source), sha256_of(items) if items else "")
    with Journal(out.with_name(f"{out.name}.unfinished")) as journal:
        done = _kept(journal, key)
        kept = len(done)
        left = [task for task in tasks if task.response_id not in done]
        with progress("grade", len(tasks), done=kept) as advance:
            for at in range(0, len(left), AT_ONCE):
                part = left[at : at + AT_ONCE]
                results = runner.run_all([task.row for task in part])
                scores = [_score(task, one) for task, one in zip(part, results, strict=True)]
                done |= {score.response_id: score for score in scores}
                journal.add(b"".join(msgspec.json.encode(score) + b"\n" for score in scores))
                advance(len(part))
        ordered = [done[task.response_id] for task in tasks]
        with atomic_open(out) as file:
            for score in ordered:
                file.write(msgspec.json.encode(score) + b"\n")
        journal.delete()
    return _report(ordered, kept)


def _tasks(source: Path, items: Mapping[str, Item] | None) -> Iterator[Task]:
    head_of(source)
    seen: set[str] = set()
    for raw in guarded(source, file := open_binary(source), json_rows(file)):
        try:
            task = _task(raw, items)
        except RefusedError as refusal:
            raise RowError(source, raw.line, refusal.problem.what, refusal.problem.fix) from refusal
        if task.response_id in seen:
            what = f"id {visible(task.response_id)!r} a second time"
            raise RowError(source, raw.line, what, "Give each answer an id of its own.")
        seen.add(task.response_id)
        yield task


def _task(raw: RawRow, items: Mapping[str, Item] | None) -> Task:
    if raw.refusal is not None:
        raise raw.refusal
    row = mapping(raw.row, "the line")
    if row.get("type") != "response":
        name = text(row.get("id", f"row-{raw.line}"), "id")
        sample = Sample(output_text=text(need(row, "sample"), "sample"))
        return Task(
            response_id=name, prompt_id=name, row=(sample, mapping(row.get("item", {}), "item"))
        )
    response = _response(raw.raw)
    if items is None:
        raise RefusedError("no_items", "a response alone", "Name the rows it answers: --items.")
    if response.prompt_id not in items:
        what = f"answers prompt {visible(response.prompt_id)}, which is not among the items"
        raise RefusedError("no_item", what, "Give the rows that were answered.")
    sample = Sample.of(response.messages)
    return Task(
        response_id=response.id,
        prompt_id=response.prompt_id,
        row=(sample, items[response.prompt_id]),
        answers_item=True,
    )


def _response(line: bytes) -> Response:
    try:
        record = decode(line)
    except DataError as error:
        raise RefusedError("no_response", str(error), "Give whole response records.") from error
    if not isinstance(record, Response):
        raise RefusedError("no_response", "not a response", "Give response records.")
    return record


def _kept(journal: Journal, key: str) -> dict[str, Score]:
    """Return what an earlier run graded well; what went wrong there is graded again."""
    if not journal.found:
        journal.add(msgspec.json.encode({"grading": key}) + b"\n")
        return {}
    found: dict[str, Score] = {}
    try:
        head: dict[str, Any] = msgspec.json.decode(journal.found[0])
        if head.get("grading") != key:
            raise DataError(
                f"{journal.path}: of another grader, server or file. Finish that grading, or "
                "delete it."
            )
        for line in journal.found[1:]:
            score = msgspec.json.decode(line, type=Score)
            found[score.response_id] = score
    except (msgspec.MsgspecError, AttributeError) as error:
        raise DataError(f"{journal.path}: damaged ({error}). Delete it and start again.") from error
    return {name: score for name, score in found.items() if not score.errors}


def _score(task: Task, result: GradeResult) -> Score:
    return Score(
        response_id=task.response_id,
        prompt_id=task.prompt_id,
        score=None if result.failed else result.reward,
        sub_rewards=result.sub_rewards,
        errors=result.metadata.errors.kinds,
        problem=visible(result.problem),
    )


def _report(scores: Sequence[Score], kept: int) -> GradeReport:
    values = [score.score for score in scores if score.score is not None]
    problems: dict[str, str] = {}
    for score in scores:
        for kind in score.errors:
            problems.setdefault(kind, score.problem)
    return GradeReport(
        rows=len(scores),
        mean=sum(values) / len(values) if values else None,
        kept=kept,
        errors=Counter(kind for score in scores for kind in score.errors),
        problems=problems,
    )
