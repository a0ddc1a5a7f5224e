"""R1: raters write while the server is killed again and again; every label is there, once."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from benchmarks.labelling_clients import Acknowledged, Rater, all_work
from benchmarks.labelling_load import fill
from sqlalchemy import select
from tests.serving.conftest import Cast, Server

from preftune.store import events
from preftune.store.database import Database
from preftune.store.projects import projects_of
from preftune.store.schema import judgments

LABELS, CLIENTS, KILLS = 2000, 20, 20


def test_r01_no_acknowledged_label_is_lost_or_doubled(
    make_server: Callable[..., Server], database_url: str
) -> None:
    raters: list[Rater] = []

    def prepare(database: Database, _cast: Cast) -> None:
        project_id, tokens = fill(database, clients=CLIENTS, items=LABELS + CLIENTS)
        raters.extend(Rater(port=0, token=token, project_id=project_id) for token in tokens)

    server = make_server(prepare, store=database_url)
    for rater in raters:
        rater.port = server.port
    killed = keep_killing(server, raters)
    acknowledged = [said for rater in raters for said in rater.acknowledged]
    assert killed == KILLS
    assert len(acknowledged) >= LABELS
    assert sum(rater.tries for rater in raters) > KILLS  # the kills were felt
    server.stop()
    with server.database() as database:
        check(database, raters[0].project_id, acknowledged)


def keep_killing(server: Server, raters: list[Rater]) -> int:
    """Kill the server at random moments while the raters work; return how often."""
    chance, killed = random.Random(1), 0

    def done() -> int:
        return sum(len(rater.acknowledged) for rater in raters)

    work = threading.Thread(target=lambda: asyncio.run(all_work(raters, lambda: done() >= LABELS)))
    work.start()
    while work.is_alive() and killed < KILLS:
        wanted = done() + chance.randrange(1, LABELS // KILLS - 10)
        while done() < wanted and work.is_alive():
            time.sleep(0.005)
        server.kill()
        server.start()
        killed += 1
    work.join(timeout=300)
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


def test_the_check_finds_a_lost_label(make_server: Callable[..., Server]) -> None:
    lost = Acknowledged(key="never", item_id="x", round=0, grade=1, seconds=0.0)
    server = make_server(lambda _database, _cast: None)
    server.stop()
    with server.database() as database, pytest.raises(AssertionError):
        check(database, server.project_id, [lost])
