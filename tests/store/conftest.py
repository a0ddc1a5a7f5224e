"""Both databases for every test of the store; PostgreSQL as a cluster of its own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.store.world import World

from preftune.store.database import Database

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def tool(name: str) -> str:
    found = shutil.which(name) or next((str(b / name) for b in BINARIES if (b / name).exists()), "")
    assert found, f"{name} is missing: install Debian's postgresql"
    return found


def run(command: list[str]) -> None:
    """Run a tool of PostgreSQL, which refuses to be root."""
    other = "nobody" if os.geteuid() == 0 else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", user=other)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a cluster in a temporary folder, without the name of a database."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    data = folder / "data"
    run([tool("initdb"), "-D", str(data), "-U", "preftune", "--auth=trust", "-E", "UTF8"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run([tool("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start"])
    try:
        yield f"postgresql://preftune@127.0.0.1:{port}"
    finally:
        run([tool("pg_ctl"), "-D", str(data), "-m", "immediate", "stop"])
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database that is empty."""
    return empty_database(request, tmp_path)


def empty_database(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of a database of the kind that a fixture's parameter names."""
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'store.db'}"
    cluster = request.getfixturevalue("postgresql")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"{cluster}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{cluster}/{name}"


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An empty store that is open."""
    with Database(database_url, files=tmp_path / "files") as database:
        yield database


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """An open store that all tests of a module share: each works in a project of its own."""
    folder = tmp_path_factory.mktemp("kept")
    with Database(empty_database(request, folder), files=folder / "files") as database:
        yield database


@pytest.fixture
def world(store: Database) -> World:
    """A project with a lead, two raters and nothing to judge yet."""
    return World(store)
