"""`preftune files`: the files of rows on a running server."""

from pathlib import Path
from typing import Annotated

import typer

from preftune.cli.jobs import HERE, Url

files_app = typer.Typer(
    no_args_is_help=True,
    help="Files of rows on a running server; PREFTUNE_API_KEY holds the key.",
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(files_app, name="files")


@files_app.command("upload")
def upload_command(
    paths: Annotated[list[Path], typer.Argument(help="Files of rows, JSON lines.")],
    url: Url = HERE,
) -> None:
    """Upload files of rows for training, and print the id of each.

    Example: preftune files upload pairs.jsonl held-out.jsonl
    """
    from preftune.cli.api_client import Api
    from preftune.progress import progress

    api = Api(url)
    with progress("upload", len(paths)) as advance:
        for path in paths:
            typer.echo(f"{api.upload(path)['id']}  {path}")
            advance()


@files_app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(min=1, help="Most files to show.")] = 20,
    url: Url = HERE,
) -> None:
    """Show the files of the key's project, the newest first.

    Example: preftune files list --limit 100
    """
    from preftune.cli.api_client import Api
    from preftune.text import visible

    for file in Api(url).all("/files", most=limit):
        line = f"{file['id']}  {file['bytes']:>12,} bytes  {file['purpose']}  {file['filename']}"
        typer.echo(visible(line))


@files_app.command("delete")
def delete_command(
    ids: Annotated[list[str], typer.Argument(help="Ids of files, file-…")], url: Url = HERE
) -> None:
    """Delete files; the jobs and models that came of them stay.

    Example: preftune files delete file-1f0c
    """
    from preftune.cli.api_client import Api, one

    api = Api(url)
    for file_id in ids:
        typer.echo(f"{api.delete(f'/files/{one(file_id)}')['id']} is deleted")
