"""What tests of the rater's page share: items whose better side is known, and looks at the page."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from playwright.sync_api import Locator, Page
from sqlalchemy import Connection, select
from tests.serving.browser_world import wait_until

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

if TYPE_CHECKING:
    from tests.serving.browser_world import Site
    from tests.serving.conftest import Cast, Server

Open = Callable[..., Page]  # the fixture `at`
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


def make_place(database: Database, cast: "Cast", name: str, place: Place) -> str:
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


def verdicts(site: "Site | Server", project_id: str) -> dict[str, list[tuple[str, Verdict]]]:
    with site.reading() as db:
        return said_of(db, project_id)


def log_of(site: "Site | Server", project_id: str) -> list[events.Event]:
    with site.reading() as db:
        return list(events.log(db, project_id))


def label_url(project_id: str) -> str:
    return f"/p/{project_id}/label"


def go(page: Page, project_id: str, *, number: int = 1) -> None:
    """Open the page and wait for its first item."""
    page.goto(label_url(project_id))
    wait_for_item(page, number)


def wait_for_item(page: Page, number: int) -> None:
    """Wait until the item is before the rater and the page takes verdicts."""
    wait_until(
        page,
        """(number) => ["Item", "Practice"].some((what) =>
            document.getElementById("item-number").textContent === `${what} ${number}`)
            && !document.getElementById("verdict").hasAttribute("aria-busy")""",
        number,
    )


def side_of(page: Page, text: str) -> int:
    """Return which response, from 0, begins with a text."""
    shown = page.locator(".response .pane").all_inner_texts()
    return next(at for at, found in enumerate(shown) if found.strip().startswith(text))


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def meant(page: Page, grade: int) -> str:
    """Return the key for a grade of the better response against the worse one."""
    return str(grade if side_of(page, GOOD) == 0 else 8 - grade)


def pressed(page: Page) -> Locator:
    """Return the verdicts that are chosen."""
    return page.locator('.choice[aria-pressed="true"]')


def finished(page: Page) -> None:
    """Wait until nothing is left for the rater."""
    page.locator("#nothing").wait_for()
