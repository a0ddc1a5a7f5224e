"""What tests of the rater's page share: items whose better side is known, and looks at the page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from playwright.sync_api import Page, expect
from sqlalchemy import Connection, create_engine, select
from tests.serving.conftest import Cast, Server

from preftune.store import events
from preftune.store.database import Database
from preftune.store.items import NewItem, Verdict, add_items, as_imported, of_comparison
from preftune.store.projects import (
    ProjectSettings,
    add_member,
    create_project,
    publish_guideline,
)
from preftune.store.schema import items, judgments
from preftune.types import Comparison, Prompt, Response, assistant, make_prompt, user

GOOD, BAD = "a fine answer", "a poor answer"


def answer(prompt: Prompt, text: str, number: int, generator: str = "some-model") -> Response:
    return Response(
        id=f"r{number}", prompt_id=prompt.id, messages=(assistant(text),), generator=generator
    )


def compared(number: int, *texts: str, prompt: Prompt | None = None) -> Comparison:
    """Return a comparison; as imported, the first is the better one."""
    asked = prompt or make_prompt(user(f"question {number}"))
    said = texts or (f"{GOOD} to {number}", f"{BAD} to {number}")
    found = tuple(answer(asked, text, at, f"model-{at}") for at, text in enumerate(said))
    return Comparison(id=f"c{number}", prompt=asked, responses=found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A project that a test works in."""

    new: list[NewItem]
    settings: ProjectSettings = field(default_factory=ProjectSettings)
    guidelines: tuple[str, ...] = ()  # versions 1, 2, …


def make_place(database: Database, cast: Cast, name: str, place: Place) -> str:
    """Put a project with two raters into a store and return its id."""

    def make(db: Connection) -> str:
        lead = cast.ids["lead"]
        made = create_project(db, name=name, settings=place.settings, by=lead)
        for role in ("rater", "rater2"):
            add_member(db, made, cast.ids[role], "rater", by=lead)
        add_items(db, made, place.new, by=lead)
        for base, text in enumerate(place.guidelines):
            publish_guideline(db, made, text, base=base, by=lead)
        return made

    return database.write(make)


def comparisons(count: int, **fields: Any) -> list[NewItem]:
    return [of_comparison(compared(number), **fields) for number in range(count)]


def said_of(db: Connection, project_id: str) -> dict[str, list[tuple[str, Verdict]]]:
    """Return for each comparison who said what, on responses as imported; what stands alone."""
    query = (
        select(items.c.comparison_id, judgments.c.user_id, judgments.c.value, judgments.c.shown)
        .join(items, items.c.id == judgments.c.item_id)
        .where(judgments.c.project_id == project_id, judgments.c.live)
        .order_by(judgments.c.seq)
    )
    found: dict[str, list[tuple[str, Verdict]]] = {}
    for row in db.execute(query):
        shown = [int(at) for at in row.shown.split(",")]
        verdict = as_imported(msgspec.json.decode(row.value), shown)
        found.setdefault(row.comparison_id, []).append((row.user_id, verdict))
    return found


@contextmanager
def looking(server: Server) -> Iterator[Connection]:
    """Read the store of a server while it runs; SQLite lets others read."""
    engine = create_engine(f"sqlite:///file:{server.store}?mode=ro&uri=true")
    with engine.connect() as db:
        yield db
    engine.dispose()


def verdicts(server: Server, project_id: str) -> dict[str, list[tuple[str, Verdict]]]:
    with looking(server) as db:
        return said_of(db, project_id)


def log_of(server: Server, project_id: str) -> list[events.Event]:
    with looking(server) as db:
        return list(events.log(db, project_id))


def label_url(project_id: str) -> str:
    return f"/p/{project_id}/label"


def go(page: Page, project_id: str, *, number: int = 1) -> None:
    """Open the page and wait for its first item."""
    page.goto(label_url(project_id))
    wait_for_item(page, number)


def wait_for_item(page: Page, number: int) -> None:
    expect(page.locator("#item-number")).to_have_text(re.compile(rf"^(Item|Practice) {number}$"))
    expect(page.locator("#verdict")).not_to_have_attribute("aria-busy", "true")


def side_of(page: Page, text: str) -> int:
    """Return which response, from 0, begins with a text."""
    shown = page.locator(".response .pane").all_inner_texts()
    return next(at for at, found in enumerate(shown) if found.strip().startswith(text))


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
