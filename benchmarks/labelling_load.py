"""How many comparisons a second the labelling server takes from raters at once.

python -m benchmarks.labelling_load --clients 50 --seconds 30

Server and raters share this machine. Each comparison is one verdict that the server has
on disk before it answers with the next item; login, authorisation and the chained log are on. With
`--store postgresql://…` the same on a server of yours.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
from sqlalchemy import Connection

from benchmarks.labelling_clients import Rater, all_work, percentile
from benchmarks.machine import Load, processor
from benchmarks.results import one_line
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.projects import ProjectSettings
from preftune.types import Comparison, Response, assistant, make_prompt, user

BLOCK = 1000
START_S = 60.0
NOBODY_KNOWS = "-"  # no password has this hash: sessions are opened straight in the store


def fill(database: Database, *, clients: int, items: int) -> tuple[str, list[str]]:
    """Put a project, its raters and its items into a store; return its id and open sessions."""

    def make(db: Connection) -> tuple[str, list[str]]:
        project_id = projects.create_project(
            db, name="load", settings=ProjectSettings(), by="benchmark"
        )
        tokens = []
        for number in range(clients):
            person = people.add_person(
                db,
                email=f"{number}@example.org",
                name=f"rater {number}",
                password_hash=NOBODY_KNOWS,
            )
            projects.add_member(db, project_id, person, "rater", by="benchmark")
            tokens.append(people.open_session(db, person, now_s=time.time()))
        return project_id, tokens

    project_id, tokens = database.write(make)
    for begin in range(0, items, BLOCK):
        block = [of_comparison(comparison(n)) for n in range(begin, min(begin + BLOCK, items))]
        database.write(partial(add_items, project_id=project_id, new=block, by="benchmark"))
    return project_id, tokens


def comparison(number: int) -> Comparison:
    """Return two answers of a paragraph each."""
    prompt = make_prompt(user(f"Question {number}: can this be washed at forty degrees?"))
    texts = ("It can, if the label says so. Turn it inside out first. " * 6, "Yes. " * 20)
    responses = tuple(
        Response(id=f"{number}-{place}", prompt_id=prompt.id, messages=(assistant(text),))
        for place, text in enumerate(texts)
    )
    return Comparison(id=f"c{number}", prompt=prompt, responses=responses)


@contextmanager
def running(store: str, port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the labelling server as a process of its own until the block ends."""
    command = [sys.executable, "-m", "preftune.cli.main", "label", "--store", store]
    command += ["--port", str(port), "--access-log", str(log)]
    with log.with_suffix(".out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            wait_for(port, process)
            yield process
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return once the server answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/login", trust_env=False)
        except httpx2.TransportError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server does not answer")


def measure(raters: list[Rater], seconds: float) -> dict[str, float]:
    """Let the raters work for a while; return the rate and how long verdicts took."""
    began = time.monotonic()
    asyncio.run(all_work(raters, lambda: time.monotonic() - began >= seconds))
    took = time.monotonic() - began
    waits = [said.seconds for rater in raters for said in rater.acknowledged]
    return {
        "comparisons": len(waits),
        "per_s": len(waits) / took,
        "p50_ms": 1000 * percentile(waits, 0.5),
        "p99_ms": 1000 * percentile(waits, 0.99),
        "worst_ms": 1000 * max(waits),
        "without_answer": sum(rater.tries for rater in raters),
    }


def main() -> None:
    """Measure what the flags say and print it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--store", default="", help="database URL; default: SQLite on this disk")
    parser.add_argument("--port", type=int, default=8767)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = flags.store or str(Path(folder) / "labels.db")
        with Database(store, files=Path(folder) / "files") as database:
            project_id, tokens = fill(database, clients=flags.clients, items=flags.items)
        load = Load()
        with running(store, flags.port, Path(folder) / "access.log"):
            raters = [Rater(port=flags.port, token=t, project_id=project_id) for t in tokens]
            found = measure(raters, flags.seconds)
        print(
            one_line(
                {
                    "clients": flags.clients,
                    **found,
                    "foreign_cores": load.foreign_cores(),
                    "processor": processor(),
                }
            )
        )


if __name__ == "__main__":
    main()
