"""`preftune keys`: a key is printed once, listed without its secret, and ended."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from preftune.cli import keys
from preftune.store.api_keys import key_of
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, create_project

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `preftune keys ARGUMENTS…` over a store with a project."""
    store = tmp_path / "preftune.db"
    with Database(store) as database:
        settings = ProjectSettings()
        database.write(lambda db: create_project(db, name="desk", settings=settings, by="t"))
    app = typer.Typer()
    app.callback()(lambda: None)
    keys.register(app)

    def ran(*arguments: str) -> Any:
        flags = ["--store", str(store), "--project", "desk"]
        return CliRunner().invoke(app, ["keys", *arguments, *flags])

    return ran


def test_a_key_is_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    made = run("make", "nightly", "--scope", "files:read", "--days", "2")
    secret = made.stdout.strip()
    assert made.exit_code == 0, made.output
    assert secret.startswith("pft_")
    with Database(tmp_path / "preftune.db") as database, database.read() as db:
        key = key_of(db, secret, now_s=time.time() + 1.9 * 86400)
        assert key_of(db, secret, now_s=time.time() + 2.1 * 86400) is None
    assert key is not None
    assert key.scopes == ("files:read",)
    listed = run("list").stdout
    assert key.id in listed
    assert "nightly" in listed
    assert secret not in listed
    assert run("revoke", key.id).exit_code == 0
    assert key.id not in run("list").stdout


def test_what_cannot_be_says_why(run: Run) -> None:
    for arguments, said in (
        (("make", "a", "--scope", "everything"), "scope 'everything' is not known"),
        (("make", "a", "--per-minute", "0"), "Allow 1 to 1,000,000"),
        (("make", "a", "--per-minute", "1" + "0" * 22), "Allow 1 to 1,000,000"),
        (("make", "a", "--days", "4000000"), "after the year 9999"),
        (("make", "a", "--days", "inf"), "after the year 9999"),
        (("make", "a", "--days", "nan"), "after the year 9999"),
        (("revoke", "key-0"), "key key-0: is not there"),
    ):
        ran = run(*arguments)
        assert ran.exit_code != 0
        assert said in str(ran.exception or "")


def test_a_store_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "preftune.db").unlink()
    for arguments in (("make", "a"), ("list",), ("revoke", "key-0")):
        assert "no such store" in str(run(*arguments).exception)
    assert not (tmp_path / "preftune.db").exists()


def test_a_store_that_a_server_has_open_says_so(run: Run, tmp_path: Path) -> None:
    with Database(tmp_path / "preftune.db"):
        ran = run("list")
    assert "has it open" in str(ran.exception)
