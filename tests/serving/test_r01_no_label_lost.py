"""R1: raters write while the server is killed again and again; every label is there, once."""

import asyncio
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.labelling_clients import Acknowledged, Rater, all_work
from benchmarks.labelling_load import fill
from sqlalchemy import select
from tests.serving.conftest import free_port
from tests.store.forked import Forks, forks
from tests.store.sizes import size

from preftune.store import events
from preftune.store.database import Database
from preftune.store.projects import projects_of
from preftune.store.schema import judgments

LABELS, CLIENTS, KILLS = size(2000, 50_000), 20, size(20, 200)
PATIENCE_S = 120.0
MODULES = ("preftune.serving.app", "preftune.serving.offer")


@dataclass(kw_only=True)
class Mortal:
    """A labelling server that can be killed and started again, at the same address."""

    forks: Forks
    store: str
    port: int
    process: int = 0

    def start(self) -> None:
        self.process = self.forks.run("label", "--store", self.store, "--port", str(self.port))

    def end(self, sign: int) -> None:
        self.forks.end(self.process, sign)


def test_r01_no_acknowledged_label_is_lost_or_doubled(database_url: str, tmp_path: Path) -> None:
    with Database(database_url) as database:
        project_id, tokens = fill(database, clients=CLIENTS, items=LABELS + CLIENTS)
    with forks(tmp_path / "log", *MODULES) as parent:
        server = Mortal(forks=parent, store=database_url, port=free_port())
        raters = [Rater(port=server.port, token=one, project_id=project_id) for one in tokens]
        server.start()
        killed = keep_killing(server, raters)
        server.end(signal.SIGTERM)
    acknowledged = [said for rater in raters for said in rater.acknowledged]
    assert killed == KILLS
    assert len(acknowledged) >= LABELS
    assert sum(rater.tries for rater in raters) > KILLS  # the kills were felt
    with Database(database_url) as database:
        check(database, project_id, acknowledged)


def keep_killing(server: Mortal, raters: list[Rater]) -> int:
    """Kill the server at random moments while the raters work; return how often."""
    chance, killed = random.Random(1), 0

    def done() -> int:
        return sum(len(rater.acknowledged) for rater in raters)

    def label() -> None:
        asyncio.run(all_work(raters, lambda: done() >= LABELS))

    work = threading.Thread(target=label, daemon=True)  # ends with the test, however that ends
    work.start()
    while work.is_alive() and killed < KILLS:
        wanted = done() + chance.randrange(1, LABELS // KILLS - 10)
        deadline = time.monotonic() + PATIENCE_S
        while done() < wanted and work.is_alive():
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)
        server.end(signal.SIGKILL)
        server.start()
        killed += 1
    work.join(timeout=max(300.0, LABELS / 20))
    return killed


def check(database: Database, project_id: str, acknowledged: list[Acknowledged]) -> None:
    with database.read() as db:
        for project in projects_of(db, None):
            events.verify(db, project.id)
        voted = [e for e in events.log(db, project_id) if e.type == "voted"]
        kept = db.execute(select(judgments).where(judgments.c.project_id == project_id)).all()
    by_key = {event.key: event for event in voted}
    assert len(by_key) == len(voted) == len(kept) == len(acknowledged)
    for said in acknowledged:
        event = by_key[said.key]
        assert event.item_id == said.item_id
        assert event.data["verdicts"]["overall"]["grade"] == said.grade
    assert set(Counter(row.item_id for row in kept).values()) == {1}  # one rater wanted, one had


def test_the_check_finds_a_lost_label(tmp_path: Path) -> None:
    lost = Acknowledged(key="never", item_id="x", round=0, grade=1, seconds=0.0)
    with Database(tmp_path / "labels.db") as database:
        project_id, _ = fill(database, clients=1, items=1)
        with pytest.raises(AssertionError):
            check(database, project_id, [lost])
