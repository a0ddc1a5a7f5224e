"""`preftune serve`: the jobs API, the models and the labelling app on one's own machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftune.store.database import Database


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("serve")(serve_command)


Store = Annotated[str, typer.Option(help="SQLite file, or postgresql://user@host/name.")]
Files = Annotated[
    Path | None, typer.Option(help="Folder of files and models, where it is not the usual.")
]
Model = Annotated[
    list[str] | None, typer.Option(help="NAME=FOLDER of a base model, or a hub id kept here.")
]
Models = Annotated[Path | None, typer.Option(help="YAML of base models, `name: folder` lines.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Listen beyond this machine without TLS.")
]
PublicUrl = Annotated[
    str, typer.Option(help="https://… of the proxy with TLS that stands before this server.")
]
AccessLog = Annotated[
    Path | None, typer.Option(help="File for one JSON line per request; else standard error.")
]
Config = Annotated[
    Path | None, typer.Option(help="YAML of settings; flags given here come before it.")
]
MaxJobs = Annotated[
    int | None, typer.Option(help="Jobs that train at the same time; 1 unless set.")
]
PythonGraders = Annotated[
    bool | None,
    typer.Option(
        "--python-graders/--no-python-graders",
        help="Run graders written in Python, in a sandbox; on unless set.",
    ),
]
ResultEncoding = Annotated[
    str | None, typer.Option(help="Of step_metrics.csv: plain, unless set, or base64.")
]
InferenceUrl = Annotated[
    str | None, typer.Option(help="…/v1 of a server that answers chats instead of this one.")
]


def serve_command(
    store: Store = "preftune.db",
    files: Files = None,
    model: Model = None,
    models: Models = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    insecure: Insecure = False,
    public_url: PublicUrl = "",
    access_log: AccessLog = None,
    config: Config = None,
    max_jobs: MaxJobs = None,
    python_graders: PythonGraders = None,
    result_encoding: ResultEncoding = None,
    inference_url: InferenceUrl = None,
) -> None:
    """Start the server; SIGTERM or Ctrl-C ends it, and its jobs go on when it is started again.

    Example: preftune serve --store preftune.db --model tiny=runs/sft/final
    """
    import gc

    gc.disable()  # until the server listens: nothing that is loaded goes
    from preftune.serving.base_models import read_base_models
    from preftune.serving.serve import ServeSettings, serve_all
    from preftune.serving.settings import ServerSettings
    from preftune.settings import build, read_yaml
    from preftune.store.database import Database

    where = {
        "host": host,
        "port": port,
        "insecure": insecure,
        "public_url": public_url,
        "access_log": access_log,
    }
    flags = {
        "max_jobs": max_jobs,
        "python_graders": python_graders,
        "result_encoding": result_encoding,
        "inference_url": inference_url,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    told = {**(read_yaml(config) if config else {}), **given}
    settings = build(ServerSettings, where, where="command line")
    options = build(ServeSettings, told, where=str(config or "command line"))
    bases = read_base_models(model or (), models)
    with Database(store, files=files) as database:
        serve_all(
            database,
            settings,
            options=options,
            bases=bases,
            ready=lambda url: _print_start(database, url),
        )
    typer.echo("stopped; every job goes on when the server is started again")


def _print_start(database: "Database", url: str) -> None:
    from preftune.serving.app import setup_link
    from preftune.serving.serve import first_key

    typer.echo(f"serving at {url}/v1")
    if key := first_key(database):
        typer.echo(f"first start: the key of the API, shown this once\n{key}")
        typer.echo(f"export OPENAI_BASE_URL={url}/v1\nexport OPENAI_API_KEY={key}")
    if link := setup_link(database, url):
        typer.echo(
            f"first start: open this to make the first admin (works once, for a day)\n{link}"
        )
