"""`preftune store`: copies of what was labelled, and whether its log is whole."""

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[str, typer.Argument(help="SQLite file, or postgresql://user@host/name.")]
Files = Annotated[Path | None, typer.Option(help="Folder of datasets, where it is not the usual.")]
store_app = typer.Typer(no_args_is_help=True, help="Back up, restore and verify what was labelled.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(store_app, name="store")


@store_app.command("backup")
def backup_command(
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    files: Files = None,
) -> None:
    """Copy one moment of a store into a folder that either database can be restored from.

    A labelling server that has the store open goes on meanwhile.

    Example: preftune store backup labels.db --out backup-monday
    """
    from preftune.store.backup import backup
    from preftune.store.reading import reading

    with reading(store, files=files) as database:
        _print(backup(database, out))


@store_app.command("restore")
def restore_command(
    folder: Annotated[Path, typer.Argument(help="What `store backup` made.")],
    into: Annotated[str, typer.Option(help="SQLite file to make, or an empty PostgreSQL.")],
    files: Files = None,
) -> None:
    """Fill an empty store from a backup, after checking every byte and every log.

    Example: preftune store restore backup-monday --into labels.db
    """
    from preftune.store.backup import restore
    from preftune.store.database import Database

    with Database(into, files=files) as database:
        _print(restore(folder, database))


@store_app.command("verify")
def verify_command(store: Store, files: Files = None) -> None:
    """Check that no event of any project was changed or taken out; a server may have it open.

    Example: preftune store verify labels.db
    """
    from preftune.store.events import verify
    from preftune.store.projects import projects_of
    from preftune.store.reading import reading

    with reading(store, files=files) as database, database.read() as db:
        for place in projects_of(db, None):
            typer.echo(f"{place.name}: {verify(db, place.id)} events, none changed")


def _print(counts: dict[str, int]) -> None:
    for table, rows in counts.items():
        typer.echo(f"{rows:>10,}  {table}")
