"""How long the lead's pages, the queue, datasets and backups take beside a million judgments.

    python -m benchmarks.labelling_million --judgments 1000000

Writes a store in a temporary folder (or at --store, a PostgreSQL URL or a path), prints one line
for each thing that people do, and writes the table of docs/store.md.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from starlette.testclient import TestClient

from benchmarks.machine import Load, processor
from benchmarks.million_store import PER_ITEM, RATERS, fill
from preftune.files import write_atomic
from preftune.serving.app import create_app
from preftune.serving.security import csrf_token
from preftune.serving.settings import ServerSettings
from preftune.store import people
from preftune.store.backup import backup, restore
from preftune.store.database import Database
from preftune.store.events import verify
from preftune.store.queue import next_task
from preftune.store.snapshots import Policy, freeze, snapshots_of

ORIGIN = "http://127.0.0.1:8000"
PAGES = ("/items", "/items?search=number+333", "/adjudication", "/raters", "/datasets", "/log")
DOC = Path("docs/store.md")
BEGIN, END = "<!-- written by benchmarks.labelling_million -->", "<!-- end -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """What was done, and how long it took."""

    what: str
    seconds: float
    busy_s: float  # of the processor, by this process


def main() -> None:
    """Fill a store, time what people do with it, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgments", type=int, default=1_000_000)
    parser.add_argument("--store", default="", help="URL or path; default: a temporary SQLite file")
    parser.add_argument("--doc", type=Path, default=DOC, help="page whose table is written anew")
    asked = parser.parse_args()
    load, found = Load(), list[Timed]()
    with tempfile.TemporaryDirectory() as folder:
        store = asked.store or str(Path(folder) / "million.db")
        with Database(store, files=Path(folder) / "files") as database:
            kind = database.url.get_backend_name()
            project_id, raters = fill(database, asked.judgments)
            for timed in [*labelling(database, project_id, raters), *saving(database, folder)]:
                print(f"{timed.seconds:9.3f} s {timed.busy_s:9.3f} s  {timed.what}", flush=True)
                found.append(timed)
                write_table(asked.doc, about(asked.judgments, kind, load), found)


def labelling(database: Database, project_id: str, raters: list[str]) -> Iterator[Timed]:
    """Yield what raters and the lead do."""
    token = database.write(lambda db: people.open_session(db, raters[0], now_s=time.time()))
    app = create_app(database, settings=ServerSettings())
    headers = {"Origin": ORIGIN, "X-CSRF-Token": csrf_token(token), "Accept": "text/html"}
    with TestClient(app, base_url=ORIGIN, headers=headers) as client:
        client.cookies.set("preftune", token)
        get = partial(page, client, f"/p/{project_id}/lead")
        for who in raters[1:4]:
            task = partial(next_task, project_id=project_id, user_id=who)
            yield took("next item of a rater", partial(database.write, task))
        yield took("overview, all counted", partial(get, ""))
        yield took("overview again, counts kept", partial(get, ""))
        for tail in PAGES:
            yield took(f"page {tail}", partial(get, tail))
        yield took("page of a rater, with what would change", partial(get, f"/raters/{raters[1]}"))
        for policy in get_args(Policy):
            made = partial(freeze, database, project_id, name=policy, policy=policy, by=raters[0])
            yield took(f"freeze, policy {policy}", made)
        with database.read() as db:
            frozen = snapshots_of(db, project_id)[0]
        rows, tail = frozen.manifest["rows"], f"/datasets/{frozen.hash}"
        yield took("page of the dataset", partial(get, tail))
        yield took(f"where line {rows:,} comes from", partial(get, f"{tail}/rows/{rows}"))
        yield took(f"download of {rows:,} rows", partial(get, f"{tail}/file"))


def saving(database: Database, folder: str) -> Iterator[Timed]:
    """Yield what keeps the labels: verify, backup, restore."""

    def verify_all() -> None:
        with database.read() as db:
            for project in db.exec_driver_sql("SELECT id FROM projects").scalars().all():
                verify(db, project)

    saved = Path(folder) / "saved"
    yield took("verify the log", verify_all)
    yield took("backup", partial(backup, database, saved))
    with Database(Path(folder) / "restored.db") as other:
        yield took("restore, every byte and the log checked", partial(restore, saved, other))


def about(judgments: int, kind: str, load: Load) -> str:
    """Return what was measured, and where."""
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{judgments:,} judgments by {RATERS} raters, {PER_ITEM} to an item, on {kind}; "
        f"{processor()}, of which others kept {load.foreign_cores():.1f} busy meanwhile. "
        f"Peak memory {peak_mib:,.0f} MiB."
    )


def page(client: TestClient, base: str, tail: str) -> None:
    """Fetch a page, whole.

    Raises:
        RuntimeError: it was refused.
    """
    answer = client.get(base + tail)
    if answer.status_code != 200:
        raise RuntimeError(f"{tail}: {answer.status_code} {answer.text[:500]}")


def took(what: str, work: Callable[[], object]) -> Timed:
    """Do something and return how long it took."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    return Timed(what=what, seconds=time.perf_counter() - began, busy_s=time.process_time() - busy)


def write_table(doc: Path, head: str, found: list[Timed]) -> None:
    """Put the table in its place on the page; the rest of the page stays."""
    before, _, rest = doc.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    lines = ["| what | seconds | of them computing |", "| --- | ---: | ---: |"]
    lines += [f"| {timed.what} | {timed.seconds:.2f} | {timed.busy_s:.2f} |" for timed in found]
    table = "\n".join([BEGIN, "", head, "", *lines, "", END])
    write_atomic(doc, before + table + after)


if __name__ == "__main__":
    main()
