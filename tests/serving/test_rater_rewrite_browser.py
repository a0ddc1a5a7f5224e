"""Rewriting a response in Chromium: by keyboard alone, kept through a reload, stored as typed."""

import pytest
from playwright.sync_api import Page, expect
from tests.serving.browser_world import Site
from tests.serving.rater_world import (
    Open,
    Place,
    answer,
    finished,
    log_of,
    press,
    verdicts,
    wait_for_item,
)

from preftune.store.items import of_response
from preftune.store.projects import ProjectSettings
from preftune.types import make_prompt, user

ASKED = make_prompt(user("how do I wash it?"))
BLUNT = answer(ASKED, "No. Wash it by hand.", 0)
WINDOWS = answer(ASKED, "No.\r\nWash it.\r\rBy hand.", 0)
KINDER = "Better not. Wash it gently by hand."
SETTINGS = ProjectSettings(kind="rewrite", dimensions=("helpful", "tone"))

PLACES = {
    name: Place(new=[of_response(ASKED, one)], settings=SETTINGS)
    for name, one in {"keys": BLUNT, "draft": BLUNT, "change": BLUNT, "line ends": WINDOWS}.items()
}


@pytest.fixture(scope="module")
def projects_wanted() -> dict[str, Place]:
    return PLACES


def assert_kinder_is_marked(page: Page) -> None:
    expect(page.locator(".diff del")).to_have_text(["No"])
    expect(page.locator(".diff ins")).to_have_text(["Better not", " gently"])


def test_a_rewrite_by_keyboard_alone_is_stored_as_typed(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("keys")
    editor = page.locator("#rewrite-text")
    press(page, "Enter")
    expect(page.locator("#status")).to_contain_text("Nothing is changed yet")
    press(page, "e")
    expect(editor).to_be_focused()
    press(page, "Control+Enter")
    expect(page.locator("#status")).to_contain_text("Nothing is changed yet")
    press(page, "Control+a")
    page.keyboard.type(KINDER)
    assert_kinder_is_marked(page)
    press(page, "Control+End", "Enter")  # a new line, not the end
    page.keyboard.type("Gently, s u f t 1 2!")
    press(page, "Tab")
    expect(editor).not_to_be_focused()
    press(page, "Shift+Tab")
    expect(editor).to_be_focused()
    press(page, "Escape")
    expect(page.locator("#heading")).to_be_focused()
    press(page, "e", "Control+Enter")
    finished(page)
    wanted = {"kind": "rewrite", "rewrite": f"{KINDER}\nGently, s u f t 1 2!"}
    (said,) = verdicts(site, places["keys"]).values()
    assert [verdict for _, verdict in said] == [wanted] * 2  # helpful and tone


def test_what_was_typed_outlives_a_reload_with_its_changes(at: Open) -> None:
    page = at("draft")
    page.locator("#rewrite-text").fill(KINDER)
    page.reload()
    wait_for_item(page, 1)
    expect(page.locator("#rewrite-text")).to_have_value(KINDER)
    assert_kinder_is_marked(page)


def test_a_change_of_an_earlier_rewrite_outlives_a_reload(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("change")
    editor = page.locator("#rewrite-text")
    editor.fill("Better not.")
    press(page, "Control+Enter")
    finished(page)
    press(page, "h")
    page.get_by_role("button", name="Change the verdict").click()
    expect(editor).to_have_value("Better not.")
    editor.fill(KINDER)
    page.reload()
    finished(page)
    press(page, "h")
    page.get_by_role("button", name="Change the verdict").click()
    expect(page.locator("#note-revising")).to_contain_text("had begun")
    expect(editor).to_have_value(KINDER)
    assert_kinder_is_marked(page)
    press(page, "e", "Control+Enter")
    finished(page)
    types = [event.type for event in log_of(site, places["change"]) if event.type != "shown"]
    assert types[-2:] == ["voted", "revised"]
    kept = page.evaluate("Object.keys(localStorage).filter((key) => /draft|outbox/.test(key))")
    assert kept == []


def test_line_ends_of_another_system_are_no_change(at: Open) -> None:
    page = at("line ends")
    assert page.locator("#rewrite-text").input_value() == "No.\nWash it.\n\nBy hand."
    expect(page.locator(".diff")).to_have_text("Nothing yet.")
