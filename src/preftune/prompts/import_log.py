"""Import a production log: each different prompt once with its count, each logged reply once."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, get_args

import msgspec

from preftune.errors import DataError, RowError, SettingsError
from preftune.files import atomic_open, open_binary
from preftune.lines import RawRow, RefusedError, csv_rows, guarded, head_of, json_rows, percent_read
from preftune.prompts.log_ids import LogIdReader, key_beside
from preftune.prompts.log_rows import (
    COLUMNS,
    Odd,
    Reader,
    Reply,
    csv_reader,
    looks_like_a_request,
    read_chat,
    read_openai,
)
from preftune.prompts.rows import OnBad, Refused, check_paths, with_bar, write_report
from preftune.prompts.traffic import Shelf, shelf_in
from preftune.records import encode
from preftune.types import Prompt, Response, content_id, make_prompt

LogFormat = Literal["auto", "chat", "csv", "openai"]
_PEEKED = 8  # rows looked at to tell chat from openai
_MOST_NAMES = 100  # of things counted by name


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What became of a log; `odd` counts what was left out or read in a way to know about."""

    source: str
    format: str
    rows: int
    prompts: int  # different ones, each written once
    repeats: int  # rows that asked what an earlier row had asked
    replies: int  # found in the log
    responses: int  # different ones, each written once; 0 when not asked for
    unanswered: int  # rows without a reply
    ids_hashed: int  # rows whose own id was hashed
    refused: dict[str, list[int]] = field(default_factory=dict)  # kind to lines
    odd: dict[str, int] = field(default_factory=dict)


def columns_named(pairs: Iterable[str]) -> dict[str, str]:
    """Return what `NAME=COLUMN` says: which column of a table holds what, see `COLUMNS`.

    Raises:
        SettingsError: no `=`, or a name given twice.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (equals and column) or name in columns:
            raise SettingsError(f"--column {pair!r}. Give each once, such as prompt=question.")
        columns[name] = column
    return columns


def import_log(
    source: Path,
    out: Path,
    *,
    responses: Path | None = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    tags: Iterable[str] = (),
    on_bad: OnBad = "stop",
    log_ids: str = "auto",
    id_key: Path | None = None,
) -> ImportReport:
    """Write the different prompts of a log to `out`, tagged `seen:N`, and the report beside it.

    Each prompt names the first ten rows that asked it. Every row counts once: rows = prompts +
    repeats + refused. Nothing but the key is written when this raises, and a run that was killed
    is simply run again: it gives the same bytes.

    Args:
        source: JSON Lines or CSV, `.gz` or not.
        out: prompts, in the order they were first asked.
        responses: where to put the logged replies; None leaves them out.
        format: `chat`, `openai`, `csv`, or `auto` to look at the first rows.
        columns: what stands in which column of a table, over `COLUMNS`.
        tags: fields, or columns, to keep as tags `name:value`.
        on_bad: stop at a bad row, or put it in `OUT.refused.jsonl` with its reason.
        log_ids: `keep` the log's own ids, `hash` all, or `auto`: those that look personal.
        id_key: file of the key to hash with, made when there is need of it; None: `LOG.id-key`.

    Raises:
        RowError: a row cannot be used and `on_bad` is "stop".
        DataError: the file cannot be read, no row can be used, or outputs and input are one file.
        SettingsError: an unknown format or kind of column.
    """
    check_paths([source, id_key or key_beside(source)], [out, responses])
    wanted = tuple(tags)
    name, read, rows = _open_log(source, format, dict(columns or {}), wanted)
    ids = LogIdReader(source, ids=log_ids, key=id_key)
    with ExitStack() as files:
        work = _Import(
            shelf=files.enter_context(shelf_in(out.parent)),
            replies=_Replies(files.enter_context(atomic_open(responses)) if responses else None),
            refused=Refused(source, out, on_bad, files),
            ids=ids,
        )
        for raw in rows:
            work.row(raw, read, wanted)
        if not len(work.shelf):
            raise DataError(f"{source}: none of {work.rows} rows can be used. Mend the file.")
        ids.check_unchanged()
        work.shelf.write(out)
    if not work.refused:
        work.refused.path.unlink(missing_ok=True)  # of an earlier run
    report = work.report(source, name)
    write_report(out, report)
    return report


class _Import:
    """Takes rows one by one and counts what becomes of them."""

    def __init__(
        self, *, shelf: Shelf, replies: "_Replies", refused: Refused, ids: LogIdReader
    ) -> None:
        self.rows = 0
        self.shelf, self.refused = shelf, refused
        self._ids = ids
        self._replies = replies
        self._unanswered = 0
        self._odd = Odd()

    def row(self, raw: RawRow, read: Reader, wanted: tuple[str, ...]) -> None:
        """Put what was asked on the shelf and write the replies, or set the row aside."""
        self.rows += 1
        odd = Odd()
        try:
            if raw.row is None:
                raise raw.refusal or RefusedError("no_row", "nothing to read", "Mend the row.")
            exchange = read(raw.row, wanted, odd)
        except RefusedError as refusal:
            text = raw.raw or (msgspec.json.encode(raw.row) if raw.row else b"")
            self.refused.add(raw.line, refusal.problem, text)
            return
        prompt = make_prompt(
            *exchange.asked,
            tools=exchange.tools,
            tags=exchange.tags,
            source=self.refused.source.name,
            origin="log",
            log_rows=(self._ids.row(raw.line, exchange.id, exchange.at),),
        )
        self.shelf.put(prompt)
        self._replies.add(prompt, exchange.replies)
        self._unanswered += not exchange.replies
        for what, count in odd.items():
            known = what in self._odd or len(self._odd) < _MOST_NAMES
            self._odd[what if known else "other fields, left out"] += count

    def report(self, source: Path, format: str) -> ImportReport:
        """Return the counts."""
        return ImportReport(
            source=source.name,
            format=format,
            rows=self.rows,
            prompts=len(self.shelf),
            repeats=self.rows - len(self.refused) - len(self.shelf),
            replies=self._replies.found,
            responses=len(self._replies),
            unanswered=self._unanswered,
            ids_hashed=self._ids.hashed,
            refused=self.refused.lines,
            odd=dict(sorted(self._odd.items())),
        )


class _Replies:
    """Writes each different reply once: the same words, to the same prompt, by the same model."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self.found = 0
        self._file = file
        self._written: set[str] = set()

    def __len__(self) -> int:
        return len(self._written)

    def add(self, prompt: Prompt, replies: Iterable[Reply]) -> None:
        for reply in replies:
            self.found += 1
            if self._file is None:
                continue
            own = content_id("r", "logged", prompt.id, reply.generator, reply.message)
            if own not in self._written:
                self._written.add(own)
                self._file.write(encode(_response(own, prompt, reply)))


def _response(id: str, prompt: Prompt, reply: Reply) -> Response:
    return Response(
        id=id,
        prompt_id=prompt.id,
        messages=(reply.message,),
        generator=reply.generator,
        origin="logged",
        finished=reply.finished,
    )


def _open_log(
    source: Path, format: str, columns: dict[str, str], wanted: tuple[str, ...]
) -> tuple[str, Reader, Iterator[RawRow]]:
    """Return the format, the reader of a row, and the rows."""
    if format not in get_args(LogFormat):
        known = ", ".join(get_args(LogFormat))
        raise SettingsError(f"--format {format!r}. Use one of: {known}.")
    if unknown := columns.keys() - COLUMNS.keys():
        known = ", ".join(COLUMNS)
        raise SettingsError(f"--column {min(unknown)!r} is not known. Use one of: {known}.")
    head = head_of(source)
    if format == "csv" or (format == "auto" and ".csv" in source.suffixes):
        return "csv", csv_reader(COLUMNS | columns), _table(source, columns, wanted)
    if columns:
        raise SettingsError("--column is for tables. Leave it out, or say --format csv.")
    if head.lstrip().startswith(b"["):
        raise DataError(
            f"{source}: is one JSON array. "
            f"Write one object per line: jq -c '.[]' {source.name} > rows.jsonl"
        )
    file = open_binary(source)
    rows = with_bar(source, guarded(source, file, json_rows(file)), percent_read(source, file))
    if format == "auto":
        format, rows = _told_apart(source, rows)
    return format, read_openai if format == "openai" else read_chat, rows


def _table(source: Path, columns: dict[str, str], wanted: tuple[str, ...]) -> Iterator[RawRow]:
    """Return the rows of a table, which must have the columns that were named."""
    needs = dict.fromkeys(((COLUMNS | columns)["prompt"], *columns.values(), *wanted))
    file = open_binary(source)
    rows = csv_rows(source, file, needs=tuple(needs), row_of=dict)
    return with_bar(source, guarded(source, file, rows), percent_read(source, file))


def _told_apart(source: Path, rows: Iterator[RawRow]) -> tuple[str, Iterator[RawRow]]:
    """Return `openai` when any of the first rows looks like a request, else `chat`."""
    peeked = list(itertools.islice(rows, _PEEKED))
    good = [raw.row for raw in peeked if raw.row is not None]
    if not good and peeked and (refusal := peeked[0].refusal):
        problem = refusal.problem
        raise RowError(source, peeked[0].line, problem.what, problem.fix) from refusal
    format = "openai" if any(map(looks_like_a_request, good)) else "chat"
    return format, itertools.chain(peeked, rows)
