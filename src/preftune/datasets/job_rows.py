"""Rows of the files of a fine-tuning job, checked one after the other; each problem says where.

`Example 3, message 2 (line 3 of pairs.jsonl): …` counts examples and messages from 1.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from preftune.datasets.formats.row import KIND_NAMES, Format
from preftune.datasets.formats.table import JSON_LINES
from preftune.datasets.read import scan
from preftune.datasets.scanned import Problem, Scanned
from preftune.errors import DataError, RowError
from preftune.fields import Row
from preftune.graders.rft_rows import read_rft_rows
from preftune.lines import json_rows, read_lines
from preftune.types import Demonstration, Message, PreferencePair, Record

Method = Literal["supervised", "dpo", "reinforcement"]
MOST_SHOWN = 20  # problems; the others are counted
OPENAI, CHAT, RFT = "openai", "chat", "rft"
_OUTPUTS = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
_OF_A_PAIR = {"input", *_OUTPUTS.values()}
_WANTED: dict[Method, type[Record]] = {"dpo": PreferencePair, "supervised": Demonstration}
_USUAL: dict[Method, str] = {"dpo": OPENAI, "supervised": CHAT, "reinforcement": RFT}
_SHAPES: dict[Method, str] = {
    "dpo": "pairs: input, preferred_output and non_preferred_output",
    "supervised": "conversations: messages that end with the assistant's",
    "reinforcement": "prompts: messages that end with the user's, and what a grader needs",
}
_MESSAGE = re.compile(r"[a-z_.]+\[(\d+)\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowProblem:
    """What is wrong with one row, in words for whoever sent the file."""

    line: int
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsReport:
    """What was found in a file of a job."""

    examples: int  # rows, good and bad
    bad: int
    problems: tuple[RowProblem, ...]  # of the first bad rows, one each
    odd: dict[str, int]  # what is strange and harmless, and how often
    format: str  # name that the readers of `preftune.datasets` know, or "rft"


def check_rows(path: Path, name: str, *, method: Method, limit: int | None = None) -> RowsReport:
    """Read the rows of a file in bounded memory, and return what is wrong with them.

    A file without problems can be read whole with its `format`, for the method asked for.

    Args:
        path: of the content, JSON Lines.
        name: what its owner calls it, for messages; paths of this machine are in none of them.
        method: what the rows are for.
        limit: read so many rows at most; None: all.
    """
    try:
        return _checked(path, name, method, limit)
    except DataError:  # names the path: nothing in it at all, or it cannot be read
        only = RowProblem(line=1, message=f"{name}: has no rows that can be read. Send JSON Lines.")
        return RowsReport(examples=0, bad=0, problems=(only,), odd={}, format=_USUAL[method])


def syntax_problem(path: Path, *, most_line_bytes: int) -> str | None:
    """Return what keeps a file from being JSON Lines, None where nothing does.

    Every line must be one JSON object in UTF-8: no blank line, no NaN, no name given twice.
    """
    with path.open("rb") as file:
        first = next(json_rows(file, most_line_bytes), None)
        if first is None:
            return "The file is empty. Send one JSON object per line."
        file.seek(0)
        if first.refusal is not None and _all_blank(file, most_line_bytes):
            return "The file has only blank lines. Send one JSON object per line."
        file.seek(0)
        for raw in json_rows(file, most_line_bytes):
            if raw.refusal is not None:
                return f"Line {raw.line}: {raw.refusal}"
    return None


def _all_blank(file: IO[bytes], most: int) -> bool:
    return all(not text.strip() and whole for _, text, whole in read_lines(file, limit=most))


def _checked(path: Path, name: str, method: Method, limit: int | None) -> RowsReport:
    line, row = _first_row(path)
    found = _format_of(row, method) if row is not None else _USUAL[method]
    if found is None:
        looks = _kind_of(row or {})
        what = f"these are {looks}, and the job's method is {method}"
        said = _sentence(name, 1, line, Problem(kind="mismatch", what=what, fix=_wanted(method)))
        only = (RowProblem(line=line, message=said),)
        return RowsReport(examples=1, bad=1, problems=only, odd={}, format=_USUAL[method])
    if found == RFT:
        return _rft_report(path, name)
    rows = itertools.islice(scan(path, format=found).rows, limit)
    return _report(rows, name, method, found)


def _report(rows: Iterator[Scanned], name: str, method: Method, found: str) -> RowsReport:
    examples, bad = 0, 0
    problems: list[RowProblem] = []
    odd: Counter[str] = Counter()
    for examples, row in enumerate(rows, 1):
        fatal = next(_fatal(row, method, found), None)
        odd.update({problem.what for problem in row.problems if not problem.fatal})
        if fatal is None:
            continue
        bad += 1
        if len(problems) < MOST_SHOWN:
            said = _sentence(name, examples, row.line, fatal)
            problems.append(RowProblem(line=row.line, message=said))
    return RowsReport(
        examples=examples, bad=bad, problems=tuple(problems), odd=dict(odd), format=found
    )


def _rft_report(path: Path, name: str) -> RowsReport:
    try:
        rows = read_rft_rows(path)
    except RowError as error:
        problem = Problem(kind="bad_row", what=error.problem, fix=error.fix)
        said = _sentence(name, error.line, error.line, problem)
        only = (RowProblem(line=error.line, message=said),)
        return RowsReport(examples=error.line, bad=1, problems=only, odd={}, format=RFT)
    odd = Counter(note.what for row in rows for note in row.notes)
    return RowsReport(examples=len(rows), bad=0, problems=(), odd=dict(odd), format=RFT)


def _fatal(row: Scanned, method: Method, found: str) -> Iterator[Problem]:
    """Yield what makes a row useless for a method."""
    for problem in row.problems:
        if problem.fatal:
            yield _in_their_words(problem) if found == OPENAI else problem
    record = row.record
    if isinstance(record, Demonstration) and method == "supervised" and not _teaches(record):
        fix = "Give one of its assistant messages the weight 1, or leave the row out."
        yield Problem(kind="nothing_to_learn", what="every assistant message has weight 0", fix=fix)
    if record is not None and not isinstance(record, _WANTED[method]):
        what = f"this is one of {KIND_NAMES[type(record)]}, and the job's method is {method}"
        yield Problem(kind="mismatch", what=what, fix=_wanted(method))
    if isinstance(record, PreferencePair):
        for name, messages in (("chosen", record.chosen), ("rejected", record.rejected)):
            shown = _OUTPUTS[name] if found == OPENAI else name
            if found == OPENAI:
                yield from _outputs(shown, messages)
            if any(_speaks(message) for message in messages) and not _weighs(messages):
                what = f"every assistant message of {shown} has weight 0"
                fix = "Give one of them the weight 1, or leave the row out."
                yield Problem(kind="nothing_to_learn", what=what, fix=fix)


def _teaches(record: Demonstration) -> bool:
    """Whether any message is trained on; a row without an assistant's is refused elsewhere."""
    return _weighs((*record.prompt.messages, *record.response))


def _speaks(message: Message) -> bool:
    return message.role == "assistant"


def _weighs(messages: Iterable[Message]) -> bool:
    return any(_speaks(message) and message.weight for message in messages)


def _outputs(name: str, messages: tuple[Message, ...]) -> Iterator[Problem]:
    for i, message in enumerate(messages):
        if message.role not in ("assistant", "tool"):
            what = f"{name}[{i}] has role {message.role!r}"
            fix = "An output has messages of the assistant and of tools alone."
            yield Problem(kind="wrong_role", what=what, fix=fix)


def _in_their_words(problem: Problem) -> Problem:
    """Return a problem under the names that OpenAI's rows have."""
    if problem.kind == "equal_responses":
        what = "preferred_output and non_preferred_output are equal"
        return Problem(kind=problem.kind, what=what, fix="Leave the row out.")
    what = re.sub(r"^(chosen|rejected)\b", lambda name: _OUTPUTS[name[0]], problem.what)
    return Problem(kind=problem.kind, what=what, fix=problem.fix)


def _sentence(name: str, example: int, line: int, problem: Problem) -> str:
    found = _MESSAGE.match(problem.what)
    where = f"Example {example}" + (f", message {int(found[1]) + 1}" if found else "")
    return f"{where} (line {line} of {name}): {problem.what}. {problem.fix}"


def _first_row(path: Path) -> tuple[int, Row | None]:
    """Return the first row that can be read, and its line."""
    with path.open("rb") as file:
        for raw in json_rows(file):
            if raw.row is not None:
                return raw.line, raw.row
    return 1, None


def _format_of(row: Row, method: Method) -> str | None:
    """Return the format of a file that begins with this row; None: of another method."""
    if method == "reinforcement":
        return RFT if not row.keys() & _OF_A_PAIR else None
    if row.keys() & _OF_A_PAIR:
        return OPENAI if method == "dpo" else None
    fitting = [fmt for fmt in JSON_LINES.values() if fmt.takes(row)]
    wanted = [fmt.name for fmt in fitting if fmt.kind in (None, _WANTED[method])]
    return wanted[0] if wanted else (None if fitting else _USUAL[method])


def _kind_of(row: Row) -> str:
    """Return what a row that fits another method looks like."""
    if row.keys() & _OF_A_PAIR:
        return "pairs"
    if JSON_LINES[CHAT].takes(row):
        return "conversations in chat format"
    fitting: list[Format] = [fmt for fmt in JSON_LINES.values() if fmt.takes(row)]
    return KIND_NAMES[fitting[0].kind] if fitting[0].kind else "records"


def _wanted(method: Method) -> str:
    return f"It takes {_SHAPES[method]}. Send such rows, or choose another method."
