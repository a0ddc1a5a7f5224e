"""`preftune keys`: keys of the API, straight in a store that no server has open."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftune.text import visible

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from preftune.store.database import Database

Store = Annotated[str, typer.Option(help="SQLite file, or postgresql://user@host/name.")]
Project = Annotated[str, typer.Option(help="Project that the key opens.")]
STORE, PROJECT = "preftune.db", "default"
DAY_S = 24 * 3600.0
keys_app = typer.Typer(
    no_args_is_help=True,
    help="Keys of the API. Where a server has the store open: its page Keys, or POST /v1/keys.",
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(keys_app, name="keys")


@keys_app.command("make")
def make_command(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Such as files:read or jobs:write; again for more; all unless given."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="How long it holds; ever, unless given.")
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="Requests it may send a minute; 6000 unless given.")
    ] = None,
    store: Store = STORE,
    project: Project = PROJECT,
) -> None:
    """Make a key and print it, this once.

    Example: preftune keys make "nightly upload" --scope files:write --days 90
    """
    import time

    from preftune.store import api_keys

    now_s = time.time()

    def make(db: "Connection") -> str:
        _, secret = api_keys.make_key(
            db,
            project_id=_project(db, project),
            name=name,
            scopes=scope or (api_keys.ALL,),
            by="command line",
            expires_s=None if days is None else now_s + days * DAY_S,
            requests_per_minute=(
                api_keys.REQUESTS_PER_MINUTE if per_minute is None else per_minute
            ),
            now_s=now_s,
        )
        return secret

    with _opened(store) as database:
        typer.echo(database.write(make))


@keys_app.command("list")
def list_command(store: Store = STORE, project: Project = PROJECT) -> None:
    """List the keys of a project, without their secrets.

    Example: preftune keys list --project "Care desk"
    """
    from preftune.store import api_keys

    with _opened(store) as database, database.read() as db:
        found = api_keys.keys_of(db, _project(db, project))
    for key in found:
        typer.echo(f"{key.id}  {visible(key.name)}")
        times = f"expires {_day(key.expires_s)}, last used {_day(key.used_s)}"
        typer.echo(f"    {key.shown}…  {' '.join(key.scopes)}  {times}")
    typer.echo(f"{len(found)} keys")


@keys_app.command("revoke")
def revoke_command(
    key_id: Annotated[str, typer.Argument(help="key-…, as `keys list` shows it.")],
    store: Store = STORE,
    project: Project = PROJECT,
) -> None:
    """Let a key open nothing from now on.

    Example: preftune keys revoke key-0123456789abcdef0123456789abcdef
    """
    import time

    from preftune.store import api_keys

    def end(db: "Connection") -> None:
        api_keys.revoke(db, _project(db, project), key_id, now_s=time.time())

    with _opened(store) as database:
        database.write(end)
    typer.echo(f"{visible(key_id)} opens nothing now")


def _opened(store: str) -> "Database":
    """Return a store that is there; `preftune serve` makes new ones."""
    from preftune.errors import StoreError
    from preftune.store.database import Database

    if "://" not in store and not Path(store).is_file():
        raise StoreError(f"{visible(store)}: no such store. Give the one of the server: --store.")
    return Database(store)


def _project(db: "Connection", name: str) -> str:
    from preftune.errors import StoreError
    from preftune.store.projects import project_named

    found = project_named(db, name)
    if found is None:
        raise StoreError(f"project {visible(name)!r}: is not there. Give one with --project.")
    return found


def _day(at_s: float | None) -> str:
    return "never" if at_s is None else f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"
