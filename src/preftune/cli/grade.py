"""`preftune grade`: give answers a score with a grader, or check a grader."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.graders.sandbox import SandboxSettings
    from preftune.graders.specs import Grader
    from preftune.responses.chat_client import ChatClient

Answers = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="Answers: {sample, item} lines, or responses.")
]
GraderFile = Annotated[Path, typer.Option(help="The grader, YAML or JSON, as in OpenAI's API.")]
Out = Annotated[Path | None, typer.Option(help="Scores to write; JSON lines.")]
Items = Annotated[
    Path | None, typer.Option(help="RFT rows that the responses answer: messages and keys.")
]
Validate = Annotated[bool, typer.Option("--validate", help="Only check the grader.")]
Url = Annotated[str, typer.Option(help="OpenAI-compatible URL of grading models.")]
AllowUrl = Annotated[
    list[str] | None, typer.Option(help="URL that may be http or not on the open internet.")
]
KeyEnv = Annotated[str, typer.Option(help="Name of the environment variable with the key.")]
KeyFile = Annotated[Path | None, typer.Option(help="File that holds the key and nothing else.")]
Concurrency = Annotated[int, typer.Option(help="Most requests under way at once.")]
Timeout = Annotated[float, typer.Option(help="Longest time for one attempt, in seconds.")]
Python = Annotated[bool, typer.Option("--python/--no-python", help="Whether python graders run.")]
Deadline = Annotated[float, typer.Option(help="Longest time of one python grading, in seconds.")]
MemoryGb = Annotated[float, typer.Option(help="Most memory of one python grading, in GiB.")]
Workers = Annotated[int, typer.Option(help="Most python gradings at once.")]
Libraries = Annotated[
    bool, typer.Option("--libraries", help="Python graders may import what is installed.")
]
URL_OPTIONS = ("allow_url", "key_env", "key_file", "concurrency", "timeout")


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("grade")(grade_command)


def grade_command(
    context: typer.Context,
    file: Answers = None,
    *,
    grader: GraderFile,
    out: Out = None,
    items: Items = None,
    validate: Validate = False,
    url: Url = "",
    allow_url: AllowUrl = None,
    key_env: KeyEnv = "",
    key_file: KeyFile = None,
    concurrency: Concurrency = 8,
    timeout: Timeout = 30.0,
    python: Python = True,
    deadline: Deadline = 120.0,
    memory_gb: MemoryGb = 2.0,
    workers: Workers = 2,
    libraries: Libraries = False,
) -> None:
    """Score answers with a grader, or check a grader with --validate.

    Stopped at any moment, the same command goes on; answers whose grading failed are tried again.

    Example: preftune grade answers.jsonl --grader grader.yaml --out scores.jsonl
    """
    from preftune.graders.specs import read_grader

    checked = read_grader(grader)
    if validate:
        typer.echo(f"{grader}: a good {checked.type} grader")
        return
    if file is None or out is None:
        raise SettingsError("command line: give FILE and --out, or --validate.")
    _refuse_unused(context, bool(url))
    limits: dict[str, Any] = {"allow_python": python, "deadline_s": deadline, "workers": workers}
    limits |= {"memory_bytes": _bytes(memory_gb), "libraries": libraries}
    server: dict[str, Any] = {"url": url, "allow_urls": allow_url or [], "key_env": key_env}
    server |= {"key_file": key_file, "concurrency": concurrency, "timeout_s": timeout}
    _grade(checked, (file, out, items), _sandbox(limits), _clients(server) if url else None)


def _refuse_unused(context: typer.Context, has_url: bool) -> None:
    for name in () if has_url else URL_OPTIONS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            raise SettingsError(f"command line: {flag} without --url. Give both or neither.")


def _bytes(memory_gb: float) -> int:
    if not math.isfinite(memory_gb):
        raise SettingsError(f"command line: --memory-gb {memory_gb}. Give a finite number of GiB.")
    return int(memory_gb * 2**30)


def _sandbox(flags: dict[str, Any]) -> "SandboxSettings":
    from preftune.graders.sandbox import SandboxSettings
    from preftune.settings import build

    return build(SandboxSettings, flags, where="command line")


def _clients(server: dict[str, Any]) -> "Callable[[str], ChatClient]":
    from preftune.responses.http_client import HttpChatClient
    from preftune.responses.remote import HttpSettings
    from preftune.settings import build

    settings = build(HttpSettings, server, where="command line")
    return lambda model: HttpChatClient(settings, model)


def _grade(
    grader: "Grader",
    files: tuple[Path, Path, Path | None],
    sandbox: "SandboxSettings",
    client_of: "Callable[[str], ChatClient] | None",
) -> None:
    from preftune.graders.grade_file import grade_file
    from preftune.graders.run import GraderRunner

    source, out, items = files
    with GraderRunner(grader, client_of=client_of, sandbox=sandbox) as runner:
        report = grade_file(runner, source, out=out, items=items)
    if report.kept:
        typer.echo(f"{report.kept} scores kept from an earlier run")
    mean = "no score at all" if report.mean is None else f"mean {report.mean:.6f}"
    typer.echo(f"{report.rows} answers graded: {mean}")
    for kind, count in report.errors.items():
        typer.echo(f"{kind}: {count} without a score, such as: {report.problems[kind]}")
    typer.echo(f"written to {out}")
