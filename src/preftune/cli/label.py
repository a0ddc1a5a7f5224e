"""`preftune label`: people compare responses in their browsers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftune.serving.offer import Offered
    from preftune.serving.settings import ServerSettings
    from preftune.store.database import Database


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("label")(label_command)


def label_command(
    store: Annotated[
        str, typer.Option(help="SQLite file, or postgresql://user@host/name.")
    ] = "labels.db",
    files: Annotated[
        Path | None, typer.Option(help="Folder of datasets, where it is not the usual.")
    ] = None,
    project: Annotated[str, typer.Option(help="Project that --comparisons go to.")] = "",
    comparisons: Annotated[
        Path | None, typer.Option(help="Comparisons to judge; those that are there stay.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="Of a new project: scale, binary, ranking or rewrite.")
    ] = "scale",
    raters_per_item: Annotated[int, typer.Option(help="Of a new project.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")] = 8000,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without TLS.")
    ] = False,
    public_url: Annotated[
        str, typer.Option(help="https://… of the proxy with TLS that stands before this server.")
    ] = "",
    access_log: Annotated[
        Path | None, typer.Option(help="File for one JSON line per request; else standard error.")
    ] = None,
    reset_link: Annotated[
        str, typer.Option(help="E-mail address; print a link that sets a new password for it.")
    ] = "",
) -> None:
    """Start the labelling server; SIGTERM or Ctrl-C ends it with every label on disk.

    Example: preftune label --store labels.db --project "Care desk" --comparisons comparisons.jsonl
    """
    from preftune.errors import SettingsError
    from preftune.serving.offer import offer
    from preftune.serving.settings import ServerSettings
    from preftune.settings import build
    from preftune.store.database import Database
    from preftune.store.projects import ProjectSettings

    flags = {
        "host": host,
        "port": port,
        "insecure": insecure,
        "public_url": public_url,
        "access_log": access_log,
    }
    settings = build(ServerSettings, flags, where="command line")
    chosen = {"kind": kind, "raters_per_item": raters_per_item}
    about = build(ProjectSettings, chosen, where="command line")
    if bool(project) != bool(comparisons):
        raise SettingsError("label: --project and --comparisons go together. Give both or neither.")
    with Database(store, files=files) as database:
        if comparisons:
            _print_offered(offer(database, comparisons, name=project, settings=about), project)
        _serve(database, settings, reset_link)
    typer.echo("stopped; every label is on disk")


def _serve(database: "Database", settings: "ServerSettings", reset_link: str) -> None:
    from preftune.serving.app import serve, setup_link
    from preftune.serving.password_reset import reset_by_email

    reset = reset_by_email(database, reset_link) if reset_link else None

    def ready(url: str) -> None:
        typer.echo(f"labelling at {url}")
        if first := setup_link(database, url):
            _print_link("first start: open this to make the first admin", first)
        if reset:
            _print_link(f"{reset_link}: open this to set a new password", f"{url}/reset#{reset}")

    serve(database, settings, ready=ready)


def _print_offered(done: "Offered", name: str) -> None:
    typer.echo(f"{name}: {done.new} new of {done.total} comparisons")


def _print_link(why: str, link: str) -> None:
    typer.echo(f"{why} (works once, for a day)\n{link}")
