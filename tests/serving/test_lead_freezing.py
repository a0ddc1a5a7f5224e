"""The lead freezes a large project: the request returns, and the page tells how far it is."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Connection
from tests.serving.browser_world import Site, complaints
from tests.serving.conftest import App, Cast
from tests.serving.lead_world import Click, Lead, fill, judge
from tests.store.said import graded, put
from tests.store.world import World

from preftune.serving.settings import ServerSettings
from preftune.store.database import Database
from preftune.store.freezing import SMALL
from preftune.store.snapshots import MANY

LARGE = SMALL + 1
JUDGED = MANY + 100  # one report of how far it is
PATIENCE_S = 60.0
BODY = {"name": "Spring <b>", "policy": "votes"}


@contextmanager
def busy(database: Database) -> Iterator[None]:
    """Keep the thread that writes busy: until then no dataset is written down."""
    held, free = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        held.set()
        free.wait(PATIENCE_S)

    database.submit(hold)
    assert held.wait(PATIENCE_S)
    try:
        yield
    finally:
        free.set()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A project above what is frozen within a request."""
    with Database(tmp_path / "labels.db") as store:
        made = World(store)
        made.add(LARGE)
        yield made


@pytest.fixture
def lead(world: World) -> Iterator[Lead]:
    cast = Cast(ids={"lead": "lead"}, project_id=world.project, other_id="")
    app = App(database=world.store, cast=cast, settings=ServerSettings())
    with app.clients:
        yield Lead(app)


def wait(lead: Lead, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found: dict[str, Any] = lead.get("/datasets/now").json()
        if until(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_a_large_dataset_is_made_beside_the_request(world: World, lead: Lead) -> None:
    put(world, [graded(n, "ann", 2) for n in range(1, JUDGED + 1)])
    with busy(world.store):
        said = lead.done("/datasets", BODY)  # returns while nothing can be written
        assert said["next"] == f"{lead.base}/datasets"
        assert said["message"] == f"Spring <b> is being made: 0 of {LARGE:,} items."
        assert "is being made. Wait until it is done" in lead.refused("/datasets", BODY)
        now = wait(lead, lambda found: found["done"] > 0)
        assert (now["done"], now["total"], now["runs"], now["to"]) == (MANY, LARGE, True, "")
        text = lead.page("/datasets")
        assert f"Spring &lt;b&gt; is being made: {MANY} of {LARGE:,} items." in text
        assert f'max="{LARGE}" value="{MANY}"' in text
        assert "data-runs" in text
    made = wait(lead, lambda found: not found["runs"])
    assert made["words"] == f"Spring <b> is made: {JUDGED} rows."
    text = lead.page("/datasets")
    assert "data-runs" not in text
    assert f'data-to href="{made["to"]}"' in text
    assert f"{JUDGED}" in lead.page(made["to"].removeprefix(lead.base))


def test_why_a_large_dataset_was_not_made_is_said(lead: Lead) -> None:
    assert "Freeze the dataset again" in lead.get("/datasets/now").json()["words"]
    assert 'id="making"' not in lead.page("/datasets")
    lead.done("/datasets", BODY)
    said = wait(lead, lambda found: not found["runs"])["words"]
    assert said.startswith("Spring <b> was not made. Dataset: no pair came")
    assert "Spring &lt;b&gt; was not made. Dataset: no pair came" in lead.page("/datasets")


@pytest.fixture(scope="module")
def fill_store() -> Callable[[Database, Cast], None]:
    def work(database: Database, cast: Cast) -> None:
        fill(database, cast.project_id, cast.ids["lead"], items=LARGE)
        judge(database, cast.project_id, Click(who=cast.ids["rater"], good=True))

    return work


def test_the_page_tells_by_itself_when_the_dataset_is_made(
    site: Site, browser_page: Callable[[str], Page]
) -> None:
    page = browser_page("lead")
    heard = complaints(page)
    page.goto(f"/p/{site.project_id}/lead/datasets")
    with busy(site.database):
        page.get_by_label("Name").fill("Spring <b>")
        page.get_by_role("button", name="Freeze").click()
        card = page.get_by_role("region", name="The latest")
        expect(card).to_contain_text(f"Spring <b> is being made: 0 of {LARGE:,} items.")
        expect(card.get_by_role("progressbar")).to_be_visible()
        expect(card.get_by_role("link")).to_be_hidden()
    expect(card).to_contain_text("Spring <b> is made: 1 row.")
    expect(card.get_by_role("progressbar")).to_be_hidden()
    card.get_by_role("link", name="Look at it").click()
    expect(page.get_by_role("heading", name="Spring <b>")).to_be_visible()
    assert heard == []
