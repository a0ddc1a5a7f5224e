"""The complete tour of the API by unmodified `openai` clients: newest and last 1.x, both kinds.

A server is started once as a user starts it; each client then makes the tour in a process of its
own, and every check of it is a test here.
"""

import fcntl
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.tour.take_tour import LINES, names
from tests.tour.tour_server import Served, serving, write_rows

OLD = "1.109.1"  # the last of its line
INSTALL = "make .venv/.openai-1"
CLIENTS = [(line, client) for line in LINES for client in ("sync", "async")]
Found = dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Found:
    """What is wrong by client and check; one process of a test run takes the tours for all."""
    mine = tmp_path_factory.getbasetemp()
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    folder = mine.parent / f"tour-{run}" if run else mine / "tour"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = folder / "found.json"
        if not kept.exists():
            kept.write_text(json.dumps(take_tours(folder, root)))
    read: Found = json.loads(kept.read_text())
    return read


def take_tours(folder: Path, root: Path) -> Found:
    write_rows(folder)
    with serving(folder) as server:
        return {
            f"{line}-{client}": take(folder, root, server, line, client) for line, client in CLIENTS
        }


def take(folder: Path, root: Path, server: Served, line: str, client: str) -> dict[str, str]:
    """Let one client make the tour in a process that finds its version first."""
    old = root / ".venv" / "openai-1"
    if line == "1" and not old.is_dir():
        return {}
    plan = {
        "url": server.url,
        "key": server.key,
        "rows": str(folder),
        "line": line,
        "client": client,
        "version": OLD if line == "1" else version("openai"),
        "found": str(folder / f"found-{line}-{client}.json"),
    }
    file = folder / f"plan-{line}-{client}.json"
    file.write_text(json.dumps(plan))
    path = os.pathsep.join([*([str(old)] if line == "1" else []), str(root)])
    command = [sys.executable, "-m", "tests.tour.take_tour", str(file)]
    environment = {**os.environ, "PYTHONPATH": path}
    ran = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    read: dict[str, str] = json.loads(Path(plan["found"]).read_text())
    return read


@pytest.mark.parametrize(
    ("who", "check"),
    [
        (f"{line}-{client}", check)
        for line, client in CLIENTS
        for check in ("version", *names(line, client))
    ],
)
def test_tour(found: Found, who: str, check: str) -> None:
    assert found[who], f"openai {OLD} is not there. Run: {INSTALL}"
    assert not found[who][check], found[who][check]
