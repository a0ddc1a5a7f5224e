"""Over 300 hostile texts in every field that a rater sees: nothing runs, all can be read."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from tests.serving.browser_world import Site
from tests.serving.conftest import Cast
from tests.serving.rater_world import (
    Place,
    answer,
    label_url,
    make_place,
    said_of,
    wait_for_item,
)
from tests.serving.xss_world import NAME, PAYLOADS, Watched, hostile, readable, texts

from preftune.serving.safe_markdown import TAGS
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison, of_response
from preftune.store.projects import ProjectSettings, publish_guideline
from preftune.types import make_prompt, user


@pytest.fixture(scope="module")
def project_settings() -> ProjectSettings:
    return ProjectSettings(dimensions=(NAME, PAYLOADS[3]), reasons=tuple(PAYLOADS))


@pytest.fixture(scope="module")
def rewriting(site: Site) -> str:
    """A project in which a response of all payloads is to be rewritten."""
    prompt = make_prompt(user("Write them down."))
    response = answer(prompt, "\n\n".join(PAYLOADS), 0)
    settings = ProjectSettings(kind="rewrite", dimensions=(NAME,))
    place = Place(new=[of_response(prompt, response)], settings=settings)
    return make_place(site.database, site.cast, NAME, place)


@pytest.fixture(scope="module")
def fill_store() -> Callable[[Database, Cast], None]:
    def fill(database: Database, cast: Cast) -> None:
        lead, place = cast.ids["lead"], cast.project_id
        new = [of_comparison(hostile())]
        database.write(lambda db: add_items(db, place, new, by=lead))
        text = "\n\n".join(PAYLOADS)
        database.write(lambda db: publish_guideline(db, place, text, base=0, by=lead))

    return fill


@pytest.fixture
def watched(site: Site, browser_page: Callable[..., Page]) -> Watched:
    page = Watched(browser_page("rater"), site)
    page.page.goto(label_url(site.project_id))
    wait_for_item(page.page, 1)
    return page


def test_plain_texts_stand_as_they_were_written(watched: Watched) -> None:
    page = watched.page
    wanted = [readable(text) for text in PAYLOADS]
    assert texts(page, "#prompt-turns .turn.user .text") == wanted
    assert texts(page, "#prompt-turns .turn.tool .text") == wanted
    shown = [texts(page, f'.response[data-label="{side}"] .turn > .text') for side in "AB"]
    assert sorted(shown) == sorted([wanted, wanted[::-1]])
    for side in "AB":
        called = texts(page, f'.response[data-label="{side}"] .call .text')
        assert called in (wanted, wanted[::-1])
    assert texts(page, "#prompt-turns .folded:not(:first-child) .text") == ["\n".join(wanted)]
    offered = texts(page, "#prompt-turns .folded:first-child .text")
    assert [readable(json.loads(text)["name"]) for text in offered] == wanted
    one_line = [" ".join(text.split(" ")) for text in wanted]
    assert [" ".join(text.split()) for text in texts(page, ".why .chip")] == [
        " ".join(text.split()) for text in one_line
    ]
    assert texts(page, ".dimension-name > :first-child") == [NAME, PAYLOADS[3]]
    assert page.locator("main").locator("a, form, input, svg").count() == 0
    watched.assert_nothing_happened()


def test_rendered_markdown_and_marked_differences_run_nothing(watched: Watched) -> None:
    page = watched.page
    page.keyboard.press("m")
    expect(page.locator(".response .markdown").first).to_be_visible()
    made = set(page.evaluate("[...document.querySelectorAll('.markdown *')].map((e) => e.tagName)"))
    spans = {"SPAN"}  # hidden characters, spelt out
    assert made <= {tag.upper() for tag in TAGS} | spans
    watched.assert_nothing_happened()
    page.keyboard.press("m")
    page.keyboard.press("d")
    expect(page.locator(".response mark").first).to_be_visible()
    watched.assert_nothing_happened()


def test_guideline_names_and_reasons_run_nothing(watched: Watched, site: Site) -> None:
    page = watched.page
    page.keyboard.press("g")
    page.get_by_role("button", name="As written").click()
    assert texts(page, "dialog .text") == ["\n\n".join(readable(text) for text in PAYLOADS)]
    watched.assert_nothing_happened()
    page.keyboard.press("Escape")
    assert page.title() == "Care desk · preftune"
    page.keyboard.press("?")
    page.keyboard.press("Escape")
    watched.assert_nothing_happened()


def test_what_raters_write_comes_back_as_they_wrote_it(watched: Watched) -> None:
    page = watched.page
    why = "\n".join(PAYLOADS)[:2900]
    for key in ("3", "5", "w"):
        page.keyboard.press(key)
    page.locator("#why-text").fill(why)
    page.keyboard.press("Escape")
    page.reload()
    wait_for_item(page, 1)
    page.keyboard.press("]")
    page.keyboard.press("Enter")
    expect(page.locator("#nothing")).to_be_visible()
    page.keyboard.press("h")
    expect(page.get_by_role("dialog")).to_be_visible()
    (shown,) = texts(page, ".why-said")
    assert shown == readable(why.strip())
    watched.assert_nothing_happened()


def test_the_rewrite_editor_holds_what_was_written(
    site: Site, browser_page: Callable[..., Page], rewriting: str
) -> None:
    page = browser_page("rater")
    watched = Watched(page, site)
    page.goto(label_url(rewriting))
    wait_for_item(page, 1)
    editor, original = page.locator("#rewrite-text"), "\n\n".join(PAYLOADS)
    assert editor.input_value() == original  # nothing spelt out: it is sent back
    added = "\n".join(PAYLOADS[::10])
    editor.focus()
    page.keyboard.press("Control+End")
    page.keyboard.insert_text(added)
    expect(page.locator(".diff ins")).to_have_count(1)
    shown = page.locator(".diff ins, .diff span:not(.hidden-character)").all_text_contents()
    assert "".join(shown) == readable(f"{original}{added}")
    watched.assert_nothing_happened()
    page.keyboard.press("Control+Enter")
    page.locator("#nothing").wait_for()
    page.keyboard.press("h")
    expect(page.get_by_role("dialog")).to_contain_text("rewritten")
    watched.assert_nothing_happened()
    with site.reading() as db:
        (((_, said),),) = said_of(db, rewriting).values()
    assert said["rewrite"] == f"{original}{added}"
