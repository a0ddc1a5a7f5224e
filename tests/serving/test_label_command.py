"""`preftune label` as a real process: first start, the end by a signal, and what it refuses."""

import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.conftest import Ran
from tests.serving.commands import Start, first_lines, starting
from tests.serving.conftest import LABEL, WORDS, Cast, Server, free_port, make_cast

from preftune.datasets.write import write_records
from preftune.serving.offer import offer
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, progress, project, project_named
from preftune.types import Comparison, Response, assistant, make_prompt, user


def comparisons(count: int) -> list[Comparison]:
    prompt = make_prompt(user("Where is my parcel?"))
    return [
        Comparison(
            id=f"c{number}",
            prompt=prompt,
            responses=tuple(
                Response(
                    id=f"r{side}", prompt_id=prompt.id, messages=(assistant(f"{side} {number}"),)
                )
                for side in "ab"
            ),
        )
        for number in range(count)
    ]


@pytest.fixture
def started() -> Iterator[Start]:
    """Start `preftune label` with flags; it ends with the test."""
    with starting(LABEL) as start:
        yield start


def test_the_first_start_prints_a_link_and_the_next_one_does_not(
    started: Start, tmp_path: Path
) -> None:
    port, store = free_port(), tmp_path / "labels.db"
    write_records(tmp_path / "c.jsonl", comparisons(3))
    about = ("--project", "Care desk", "--comparisons", tmp_path / "c.jsonl")
    first = started("--store", store, "--port", port, *about)
    imported, where, _, link = first_lines(first, 4)
    assert imported == "Care desk: 3 new of 3 comparisons"
    assert where == f"labelling at http://127.0.0.1:{port}"
    url, _, token = link.partition("/setup#")
    with httpx2.Client(base_url=url, trust_env=False) as client:
        page = client.get("/setup", headers={"Accept": "text/html"}).text
        found = re.search('name="csrf-token" content="([0-9a-f]{64})"', page)
        assert found is not None
        body = {"token": token, "name": "Ada", "email": "ada@example.org", "password": WORDS}
        headers = {"Origin": url, "X-CSRF-Token": found[1]}
        made = client.post("/api/invites/accept", json=body, headers=headers)
        assert made.status_code == 200
        assert "Care desk" in client.get("/projects", headers={"Accept": "text/html"}).text
    first.send_signal(signal.SIGTERM)
    assert first.communicate(timeout=30)[0] == "stopped; every label is on disk\n"
    assert first.returncode == 0
    forgot = ("--reset-link", "ada@example.org")
    second = started("--store", store, "--port", port, *about, *forgot)
    again, there, _, link = first_lines(second, 4)
    assert [again, there] == ["Care desk: 0 new of 3 comparisons", where]
    new_url, _, token = link.partition("/reset#")
    assert new_url == url
    with httpx2.Client(base_url=url, trust_env=False) as client:
        page = client.get("/reset", headers={"Accept": "text/html"}).text
        found = re.search('name="csrf-token" content="([0-9a-f]{64})"', page)
        assert found is not None
        headers = {"Origin": url, "X-CSRF-Token": found[1]}
        body = {"token": token, "new": "trombone lantern pickle"}
        assert client.post("/api/reset", json=body, headers=headers).status_code == 200
    assert httpx2.get(f"{url}/setup", trust_env=False).headers["location"] == "/login"
    second.send_signal(signal.SIGINT)
    assert "setup" not in second.communicate(timeout=30)[0]
    assert second.returncode == 0


def test_what_was_acknowledged_is_there_after_a_stop_and_after_a_kill(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(lambda _database, _cast: None)
    body = {"kind": "scale", "dimensions": ["overall"], "raters_per_item": 1}
    ends: list[tuple[str, Callable[[], object]]] = [
        ("a stop", server.stop),
        ("a kill", server.kill),
    ]
    for name, end in ends:
        with server.client("admin") as client:  # signed in before the first end, and after it
            assert client.post("/api/projects", json={**body, "name": name}).status_code == 200
        end()
        with server.database() as database, database.read() as db:
            assert project_named(db, name) is not None
        if name == "a stop":
            server.start()


def test_a_second_server_on_the_same_store_says_who_has_it(
    run_cli: Callable[..., Ran], tmp_path: Path
) -> None:
    with Database(tmp_path / "labels.db"):
        ran = run_cli("label", "--store", tmp_path / "labels.db", "--port", 0)
    assert ran.code == 2
    assert "has it open" in ran.err


def test_a_link_for_an_address_without_account_is_refused(
    run_cli: Callable[..., Ran], tmp_path: Path
) -> None:
    store = tmp_path / "labels.db"
    ran = run_cli("label", "--store", store, "--port", 0, "--reset-link", "x@example.org")
    assert (ran.code, ran.out) == (2, "")
    assert "x@example.org: is not there" in ran.err


def test_a_port_that_is_taken_is_named(run_cli: Callable[..., Ran], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run_cli("label", "--store", tmp_path / "labels.db", "--port", port)
    assert (ran.code, ran.out) == (2, "")
    assert f"port {port} of 127.0.0.1" in ran.err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--host", "::"], "--insecure on a network that you trust"),
        (["--kind", "stars"], "kind"),
        (["--project", "x"], "go together"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_made(
    run_cli: Callable[..., Ran], tmp_path: Path, flags: list[str], problem: str
) -> None:
    ran = run_cli("label", "--store", tmp_path / "labels.db", *flags)
    assert ran.code == 2
    assert problem in ran.err
    assert list(tmp_path.iterdir()) == []


def test_offering_a_file_twice_adds_nothing(tmp_path: Path) -> None:
    write_records(tmp_path / "c.jsonl", comparisons(1203))
    asked = ProjectSettings(kind="binary", raters_per_item=3)
    with Database(tmp_path / "labels.db") as database:
        cast: Cast = make_cast(database)
        done = [offer(database, tmp_path / "c.jsonl", name="New", settings=asked) for _ in range(2)]
        assert [(one.new, one.total) for one in done] == [(1203, 1203), (0, 1203)]
        with database.read() as db:
            assert project(db, done[0].project_id).settings == asked
            assert progress(db, done[0].project_id, cast.ids["rater"]).total == 1203
