"""Hostile texts in every field that people fill in and files bring, on all other pages."""

import time
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest
from playwright.sync_api import FilePayload, Page, expect
from sqlalchemy import Connection
from tests.serving.browser_world import Site
from tests.serving.conftest import Cast
from tests.serving.xss_world import PAYLOADS, Watched, hostile, missing, one_line

from preftune.store import people, projects
from preftune.store.adjudication import Wanted, disagreed, list_items
from preftune.store.database import Database
from preftune.store.items import Item, NewItem, Verdict, add_items, of_comparison
from preftune.store.labels import Vote, flag, vote
from preftune.store.projects import ProjectSettings
from preftune.store.queue import next_task
from preftune.store.snapshots import freeze
from preftune.types import Comparison, Prompt, Response, assistant, make_prompt, user

DIMENSIONS = tuple(dict.fromkeys(text.strip() for text in PAYLOADS[:3]))
SHORT = [text.strip() for text in PAYLOADS if text.strip()]  # as the store takes names
SOME = SHORT[::30]
REASONS = [text for text in SHORT if len(text) <= 100 and "\n" not in text][::8]  # a form takes 50
WHY = ["\n".join(SHORT[at : at + 30]) for at in range(0, len(SHORT), 30)]
EXCERPT = 60  # of a prompt in a list


def compared(number: int, text: str) -> NewItem:
    prompt = make_prompt(user(text), source=text, origin="log")
    return of_comparison(
        Comparison(id=f"{text[:40]}{number}", prompt=prompt, responses=tuple(_two(prompt, text)))
    )


def _two(prompt: Prompt, text: str) -> list[Response]:
    return [
        Response(
            id=f"{text}{side}",
            prompt_id=prompt.id,
            messages=(assistant(f"{text} {side}"),),
            generator=text,
        )
        for side in "ab"
    ]


def said(task_id: str, round: int, grade: int, number: int) -> Vote:
    verdict: Verdict = {"kind": "scale", "grade": grade}
    return Vote(
        key=f"hostile-vote-{number:04}",
        item_id=task_id,
        round=round,
        verdicts=dict.fromkeys(DIMENSIONS, verdict),
        why=dict.fromkeys(DIMENSIONS, WHY[number % len(WHY)]),
        seconds=3.0,
    )


def crowd(db: Connection, cast: Cast) -> None:
    """Give a name and an address to somebody for each payload, and two raters hostile ones."""
    for number, text in enumerate(SHORT):
        who = people.add_person(db, email=f"{text}@{number}", name=text, password_hash="-")
        projects.add_member(db, cast.project_id, who, "rater", by=cast.ids["lead"])
    for number, text in enumerate(SHORT):
        named = f"{text[:180]}{number}"
        projects.create_project(db, name=named, settings=ProjectSettings(), by=cast.ids["lead"])


@pytest.fixture(scope="module")
def project_settings() -> ProjectSettings:
    return ProjectSettings(dimensions=DIMENSIONS, reasons=tuple(REASONS), raters_per_item=2)


@pytest.fixture(scope="module")
def fill_store() -> Callable[[Database, Cast], None]:
    def fill(database: Database, cast: Cast) -> None:
        desk, lead = cast.project_id, cast.ids["lead"]
        database.write(lambda db: crowd(db, cast))
        new = [of_comparison(hostile()), *(compared(n, text) for n, text in enumerate(SOME))]
        database.write(lambda db: add_items(db, desk, new, by=lead))
        for base, text in enumerate(("\n\n".join(SHORT), "\n\n".join(SHORT[::-1]))):
            database.write(
                partial(projects.publish_guideline, project_id=desk, text=text, base=base, by=lead)
            )
        for at, (role, grade) in enumerate((("rater", 1), ("rater2", 7))):
            who = cast.ids[role]
            for number in range(len(new) - 1):
                task = database.write(partial(next_task, project_id=desk, user_id=who))
                assert task is not None
                given = said(task.item_id, task.round, grade, 100 * at + number)
                database.write(partial(vote, project_id=desk, user_id=who, said=given))
            task = database.write(partial(next_task, project_id=desk, user_id=who))
            assert task is not None
            about = partial(flag, item_id=task.item_id, key=f"hostile-flag-{at}", why=WHY[at])
            database.write(partial(about, project_id=desk, user_id=who))
        freeze(database, desk, name=SOME[0], by=lead)

    return fill


@pytest.fixture
def watched(site: Site, browser_page: Callable[..., Page]) -> Callable[[str], Watched]:
    return lambda role: Watched(browser_page(role), site)


def test_people_and_projects_stand_as_they_are_called(
    watched: Callable[[str], Watched], site: Site
) -> None:
    seen = watched("admin")
    page = seen.page
    page.goto("/people")
    assert missing(page, SHORT) == []  # names
    assert missing(page, [f"{text.lower()}@{n}" for n, text in enumerate(SHORT)]) == []
    page.get_by_role("button", name="sets a new password").nth(5).click()
    expect(page.locator("#link-words")).to_contain_text("Send this link to")
    assert one_line(page.locator("#link-words").inner_text()).startswith("Send this link to")
    page.locator(".button.danger").nth(5).click()  # the question is a dialog of the browser's
    page.wait_for_timeout(50)
    assert len(seen.dialogs) == 1
    seen.dialogs.clear()
    page.goto("/projects")
    assert missing(page, [f"{text[:180]}{n}".strip() for n, text in enumerate(SHORT)]) == []
    seen.assert_nothing_happened()
    with site.reading() as db:
        named = [one for one in projects.projects_of(db, None) if one.name.startswith("<")][:5]
    for one in named:
        page.goto(f"/p/{one.id}/lead")
        assert page.title() == f"Overview · {one_line(one.name)} · preftune"
        seen.assert_nothing_happened()


def test_links_say_for_whom_they_are(
    watched: Callable[[str], Watched], browser_page: Callable[..., Page], site: Site
) -> None:
    def links(db: Connection) -> list[tuple[str, str]]:
        invite = partial(people.invite, db, role="rater", by="x", expires_s=time.time() + 60)
        invited = [
            (one.name, f"/invite#{invite(project_id=one.id)}")
            for one in projects.projects_of(db, None)
            if one.name not in ("Care desk", "Elsewhere")
        ]
        forgot = [
            (one.name, f"/reset#{people.make_reset(db, one.id, expires_s=time.time() + 3600)}")
            for one in people.people(db)
            if "@example.org" not in one.email
        ]
        return [*invited[::60], *forgot[::60]]

    made = site.database.write(links)
    assert len(made) >= 10
    seen = Watched(browser_page(None), site)
    for name, path in made:
        seen.page.goto(path)
        expect(seen.page.locator("#what")).to_contain_text(one_line(name))
        seen.assert_nothing_happened()


def test_the_leads_pages_show_what_was_said_as_it_was_said(
    watched: Callable[[str], Watched], site: Site
) -> None:
    seen = watched("lead")
    page, base = seen.page, f"/p/{site.project_id}/lead"
    page.goto(f"{base}/items")
    assert missing(page, [text for text in SOME if len(text) <= EXCERPT]) == []
    page.locator("table a").nth(1).click()
    page.goto(f"{page.url}?names=true")
    assert missing(page, [*DIMENSIONS]) == []
    with site.reading() as db:
        split = disagreed(db, site.project_id, count=1)[0].id
        whole = next(it for it in _items(db, site.project_id) if it.comparison_id == hostile().id)
    page.goto(f"{base}/items/{whole.id}?names=true")
    assert missing(page, PAYLOADS) == []  # each a turn of its own
    for tail, wanted in (
        ("", []),
        ("/known", []),
        ("/adjudication", WHY[:2]),
        (f"/adjudication/{split}", [*DIMENSIONS, *REASONS]),
        ("/raters", SHORT),
        (f"/raters/{site.cast.ids['rater']}", []),
        ("/guideline?version=2&beside=1", []),
        ("/guideline?version=2", []),
        ("/settings", []),
        ("/datasets", SOME[:1]),
        ("/log", []),
    ):
        page.goto(base + tail)
        assert missing(page, list(wanted)) == [], tail
        seen.assert_nothing_happened()
    page.goto(f"{base}/datasets")
    page.get_by_role("link", name=one_line(SOME[0])).first.click()
    for link in ("Show who wrote", "Where line 1 comes from"):
        page.get_by_role("link", name=link).click()
        seen.assert_nothing_happened()


def _items(db: Connection, project_id: str) -> list[Item]:
    return list_items(db, project_id, Wanted(), count=1000)


def test_what_a_lead_types_comes_back_as_it_was_typed(
    watched: Callable[[str], Watched], site: Site
) -> None:
    seen = watched("lead")
    page, base = seen.page, f"/p/{site.project_id}/lead"
    for text in SOME:
        page.goto(f"{base}/items?search={quote(text[:200])}")
        assert page.get_by_label("Words or id").input_value() == text[:200].replace("\n", "")
    page.goto(f"{base}/guideline")
    box = page.get_by_label("Text (Markdown)")
    assert box.input_value() == "\n\n".join(SHORT[::-1])
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#previewed")).to_be_visible()
    seen.assert_nothing_happened()
    page.goto(f"{base}/settings")
    assert page.get_by_label("Reasons").input_value().split("\n") == REASONS
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("These settings hold from now on.")).to_be_visible()
    seen.assert_nothing_happened()
    with site.reading() as db:
        assert projects.project(db, site.project_id).settings.dimensions == DIMENSIONS


def test_a_file_of_hostile_lines_is_refused_in_words(
    watched: Callable[[str], Watched], site: Site
) -> None:
    seen = watched("lead")
    page = seen.page
    page.goto(f"/p/{site.project_id}/lead/import")
    for number, text in enumerate(SOME[:4], 1):
        file: FilePayload = {
            "name": f"{text}.jsonl",
            "mimeType": "text/plain",
            "buffer": text.encode(),
        }
        page.get_by_label("File").set_input_files(file)
        page.get_by_role("button", name="Import").click()
        expect(page.get_by_role("alert")).to_be_visible()
        seen.assert_nothing_happened(refused=number)
