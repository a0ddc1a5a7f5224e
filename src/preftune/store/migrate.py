"""Bring the tables of a database up to date, all steps in one transaction."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from preftune.errors import StoreError

FOLDER = Path(__file__).parent / "migrations"


def revision(db: Connection) -> str | None:
    """Return the version of the tables."""
    return MigrationContext.configure(db).get_current_revision()


def newest() -> str | None:
    """Return the version of the tables that this program works on."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def migrate(engine: Engine) -> None:
    """Run the migrations that a database lacks; killed on the way, the next start does them all.

    Raises:
        StoreError: the tables are newer than this version of the program.
    """
    config = _config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.begin() as connection:
        current = revision(connection)
        if current is not None and current not in known:
            raise StoreError(
                f"store: its tables are of version {current}, which this program does not know. "
                "Use the newer version of preftune that wrote it."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return config
