"""A file of comparisons, or of responses to be rewritten, arrives line by line."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from preftune.datasets.contract import examine
from preftune.errors import DataError
from preftune.records import decode
from preftune.serving.lead_payload import Piece
from preftune.store.items import NewItem, add_items, of_comparison, of_response
from preftune.store.projects import Kind, project
from preftune.types import Comparison, Demonstration, Judgment, Prompt, Record, Response

LONGEST_ID = 200  # characters of a comparison's id
SHOWN = 10  # problems named in one answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of the lines of a piece; blank lines are in no count."""

    new: int
    known: int  # there already
    prompts: int  # that stand beside responses
    judgments: int  # left out: what was said elsewhere is no verdict of a rater here


def import_piece(db: Connection, project_id: str, piece: Piece, *, by: str) -> Imported:
    """Import all lines of a piece, or none.

    Raises:
        DataError: names the file, the first lines that cannot be used, and why.
    """
    kind = project(db, project_id).settings.kind
    prompts = {p.id: p for p in _prompts(piece.prompts)}
    lines: dict[str, int] = {}
    found: list[NewItem] = []
    counts = {"prompts": 0, "judgments": 0}
    problems: list[str] = []
    for number, line in enumerate(piece.lines, piece.first_line):
        if not line.strip():
            continue
        try:
            record = _read(line)
            if isinstance(record, Prompt):
                prompts[record.id] = record
                counts["prompts"] += 1
            elif isinstance(record, Judgment):
                counts["judgments"] += 1
            else:
                new = _item(record, kind, prompts)
                lines.setdefault(new.id, number)
                found.append(new)
        except DataError as error:
            problems.append(f"line {number} of {piece.name}: {error}")
    if problems:
        more = f" And {len(problems) - SHOWN} lines more." if len(problems) > SHOWN else ""
        raise DataError("\n".join(problems[:SHOWN]) + more)
    try:
        added = add_items(db, project_id, found, by=by) if found else 0
    except DataError as error:
        bad = str(error).removeprefix("item ").partition(": ")[0]
        at = lines.get(bad, piece.first_line)
        raise DataError(f"line {at} of {piece.name}: {error}") from error
    return Imported(new=added, known=len(found) - added, **counts)


def _read(line: str) -> Record:
    record = decode(line.encode())
    for problem in examine(record):
        if problem.fatal:
            raise DataError(f"{problem.what}. {problem.fix}")
    return record


def _item(record: Record, kind: Kind, prompts: dict[str, Prompt]) -> NewItem:
    if isinstance(record, Comparison) and kind != "rewrite":
        if len(record.id) > LONGEST_ID or "\0" in record.id or not record.id:
            raise DataError(f"id: not of 1 to {LONGEST_ID} characters. Give a shorter one.")
        return of_comparison(record)
    if isinstance(record, Response) and kind == "rewrite":
        if record.prompt_id not in prompts:
            raise DataError(f"prompt {record.prompt_id} is not before it. Put its line first.")
        return of_response(prompts[record.prompt_id], record)
    if isinstance(record, Demonstration) and kind == "rewrite":
        response = Response(
            id=record.id, prompt_id=record.prompt.id, messages=record.response, origin="logged"
        )
        return of_response(record.prompt, response)
    wanted = "responses with their prompts" if kind == "rewrite" else "comparisons"
    raise DataError(f"a {type(record).__name__.lower()}. This project takes {wanted}.")


def _prompts(lines: list[str]) -> Iterator[Prompt]:
    for line in lines:
        record = decode(line.encode())
        if isinstance(record, Prompt):
            yield record
