"""What all importers share: rows in, records out, and the command line.

An importer is one function, `convert(line, row)`, that yields the records of a row. A `Problem` it
yields marks the whole row: a fatal one refuses its records, an odd one is counted, records kept.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.datasets.scanned import Problem, Scanned
from preftune.datasets.write import write_records
from preftune.errors import DataError, PreftuneError, RowError
from preftune.files import open_binary, write_atomic
from preftune.records import TAGS
from preftune.types import (
    Comparison,
    Judgment,
    Message,
    Prompt,
    Rater,
    Record,
    Response,
    ResponseOrigin,
    assistant,
    content_id,
)

Row = dict[str, Any]
Convert = Callable[[int, Row], Iterable[Record | Problem]]
Records = Callable[[Path], Iterable[Scanned]]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, row) of a JSON Lines file, `.gz` unpacked.

    Raises:
        RowError: a line is not a JSON object.
    """
    decoder = msgspec.json.Decoder(Row)
    with open_binary(path) as file:
        for line, text in enumerate(file, start=1):
            try:
                yield line, decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise RowError(path, line, str(error), "Give one JSON object per line.") from error


def converted(rows: Iterable[tuple[int, Row]], convert: Convert) -> Iterator[Scanned]:
    """Yield every record of every row with the problems of its row."""
    for line, row in rows:
        made = list(convert(line, row))
        problems = tuple(item for item in made if isinstance(item, Problem))
        for item in made:
            if not isinstance(item, Problem):
                yield Scanned(line=line, record=item, problems=problems)


def usable(scanned: Iterable[Scanned]) -> list[Record]:
    """Return the records that may be used, in order."""
    return [item.record for item in scanned if item.record is not None and item.usable]


def answer(
    prompt: Prompt,
    text: str | tuple[Message, ...],
    *,
    generator: str | None = None,
    origin: ResponseOrigin = "sampled",
) -> Response:
    """Return a response; equal prompt, generator and text give an equal id."""
    messages = (assistant(text),) if isinstance(text, str) else text
    name = content_id("r", prompt.id, generator, messages)
    return Response(
        id=name, prompt_id=prompt.id, messages=messages, generator=generator, origin=origin
    )


def verdict(
    comparison: Comparison, rater: Rater, outcome: int | None, *, name: str = "", **said: Any
) -> Judgment:
    """Return a binary judgment for position `outcome`, or a tie when it is None."""
    dimension = said.get("dimension", "overall")
    return Judgment(
        id=name or f"{comparison.id}/{rater.id}/{dimension}",
        comparison_id=comparison.id,
        kind="tie" if outcome is None else "binary",
        rater=rater,
        choice=outcome,
        **said,
    )


def unparsed(comparison: Comparison, rater: Rater, **said: Any) -> Judgment:
    """Return a judge's answer in which no verdict was found: kept and counted, never scored."""
    name = f"{comparison.id}/{rater.id}/{said.get('dimension', 'overall')}"
    return Judgment(id=name, comparison_id=comparison.id, kind="unparsed", rater=rater, **said)


def run(records: Records) -> None:
    """Run an importer as a command; a user's mistake is one line on stderr and exit code 2."""

    def command(
        folder: Annotated[Path, typer.Argument(help="Folder of the set.")],
        out: Annotated[Path, typer.Option(help="JSON Lines of preftune records to write.")],
        only: Annotated[str, typer.Option(help=f"One kind: {', '.join(TAGS)}.")] = "",
        pairs: Annotated[
            str, typer.Option(help="Join verdicts of these raters into pairs: human, judge, rule.")
        ] = "",
        dimension: Annotated[str, typer.Option(help="With --pairs: the dimension.")] = "overall",
    ) -> None:
        try:
            import_set(records(folder), out, only=only, pairs=pairs, dimension=dimension)
        except PreftuneError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(code=2) from error
        except OSError as error:
            what = f"{error.filename}: {error.strerror}. Give the folder of the set."
            typer.echo(f"error: {what}", err=True)
            raise typer.Exit(code=2) from error

    typer.run(command)


def import_set(
    scanned: Iterable[Scanned], out: Path, *, only: str = "", pairs: str = "", dimension: str = ""
) -> None:
    """Write the usable records, the refused rows beside them, and print what became of all."""
    if only and only not in TAGS:
        raise DataError(f"--only {only}: no such kind. Use one of: {', '.join(TAGS)}.")
    if only and pairs:
        raise DataError("--only and --pairs: both choose what is written. Give one of them.")
    found = list(scanned)
    _report_problems(found, out)
    records = usable(found)
    if only:
        records = [record for record in records if isinstance(record, TAGS[only])]
    if pairs:
        records = _joined(records, pairs, dimension)
    write_records(out, records, format="preftune")
    counts = Counter(type(record).__name__ for record in records)
    typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()) or "no records")


def _joined(records: list[Record], kind: str, dimension: str) -> list[Record]:
    judgments = [r for r in records if isinstance(r, Judgment) and r.rater.kind == kind]
    if not judgments:
        raise DataError(f"--pairs {kind}: no verdicts of such raters here. Try without it.")
    shown = [record for record in records if isinstance(record, Comparison)]
    found = pairs_from_judgments(shown, judgments, dimension=dimension)
    typer.echo(
        f"{len(found.pairs)} pairs; not pairs: {len(found.ties)} ties, "
        f"{len(found.identical)} identical, {len(found.unjudged)} unjudged; "
        f"{found.unparsed} answers unparsed, {found.repeats} verdicts replaced by a later one"
    )
    return list(found.pairs)


def _report_problems(found: Iterable[Scanned], out: Path) -> None:
    rows = {(item.line, problem) for item in found for problem in item.problems}
    lines: dict[str, list[int]] = {}
    for line, problem in sorted(rows, key=lambda row: row[0]):
        label = f"{problem.kind} ({'refused' if problem.fatal else 'kept'})"
        lines.setdefault(label, []).append(line)
    for label, where in lines.items():
        first = ", ".join(map(str, where[:5])) + (", …" if len(where) > 5 else "")
        typer.echo(f"{len(where)} rows {label}: lines {first}")
    refused = [
        {"line": line, "kind": p.kind, "what": p.what, "fix": p.fix}
        for line, p in sorted(rows, key=lambda row: row[0])
        if p.fatal
    ]
    if refused:
        beside = out.with_suffix(".refused.jsonl")
        write_atomic(beside, b"".join(msgspec.json.encode(row) + b"\n" for row in refused))
        typer.echo(f"refused rows and reasons: {beside}")
