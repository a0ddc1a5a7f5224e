"""The pages about people in a real browser: from the first start to a rater who signs in."""

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from tests.serving.browser_world import (
    DESKTOP,
    PHONE,
    Site,
    complaints,
    go_offline,
    offences,
    sideways,
    wait_until,
)
from tests.serving.conftest import WORDS, Cast

from preftune.store import people
from preftune.store.database import Database

PAGES: dict[str | None, tuple[str, ...]] = {
    None: ("/login", "/invite", "/reset"),
    "admin": ("/projects", "/people"),
    "rater": ("/projects", "/account"),
}


@pytest.fixture(scope="module")
def fill_store() -> Callable[[Database, Cast], None]:
    def fill(database: Database, cast: Cast) -> None:
        later = time.time() + 3600
        database.write(
            lambda db: people.invite(
                db, role="rater", project_id=cast.project_id, by="x", expires_s=later
            )
        )

    return fill


def test_a_person_is_invited_joins_signs_out_and_in_again(
    browser_page: Callable[..., Page],
) -> None:
    admin = browser_page("admin")
    seen = complaints(admin)
    admin.goto("/projects")
    admin.get_by_label("Name").fill("Second desk")
    admin.get_by_label("Judged by").fill("helpful, harmless")
    admin.get_by_role("button", name="Make the project").click()
    admin.wait_for_url("**/p/prj-*/lead")
    admin.goto("/people")
    seen.clear()  # what other pages complain of is theirs
    admin.get_by_label("Project", exact=True).select_option(label="Second desk")
    admin.get_by_role("button", name="Make a link", exact=True).click()
    shown = admin.get_by_label("Send this link")
    expect(shown).to_have_value(re.compile("/invite#"))
    link = shown.input_value()
    assert seen == []

    new = browser_page(None)
    seen = complaints(new)
    new.goto(link)
    expect(
        new.get_by_text("You are invited to the project “Second desk” as a rater.")
    ).to_be_visible()
    assert "#" not in new.url  # the token is out of the address
    new.get_by_label("Your name").fill("Nia")
    new.get_by_label("E-mail address").fill("nia@example.org")
    new.get_by_label("Password").fill("short but not so")
    new.get_by_role("button", name="Make my account").click()
    expect(new.get_by_role("heading", name="Second desk")).to_be_visible()
    expect(new.get_by_role("heading", name="Care desk")).to_have_count(0)
    new.goto("/account")
    new.get_by_role("button", name="Sign out").click()
    new.wait_for_url("**/login")
    new.get_by_label("E-mail address").fill("nia@example.org")
    new.get_by_label("Password").fill("short but not so")
    new.keyboard.press("Enter")
    new.wait_for_url("**/projects")
    assert seen == []


def test_a_forgotten_password_is_set_anew_by_a_link(browser_page: Callable[..., Page]) -> None:
    admin, lead = browser_page("admin"), browser_page("outsider")
    lead.goto("/account")
    admin.goto("/people")
    admin.get_by_role("button", name="Outsider Example sets a new password").click()
    shown = admin.get_by_label("Send this link to Outsider Example")
    expect(shown).to_be_focused()
    expect(shown).to_have_value(re.compile("/reset#"))
    link = shown.input_value()
    page = browser_page(None)
    seen = complaints(page)
    page.goto(link)
    expect(page.get_by_text("For Outsider Example.")).to_be_visible()
    assert "#" not in page.url  # the token is out of the address
    expect(page.get_by_label("E-mail address")).to_have_value("outsider@example.org")
    page.get_by_label("New password").fill("trombone lantern pickle")
    page.keyboard.press("Enter")
    page.wait_for_url("**/projects")
    expect(page.get_by_role("heading", name="Elsewhere")).to_be_visible()
    assert seen == []
    lead.reload()
    lead.wait_for_url(re.compile("/login"))
    page.goto("/login")  # signed in: on to the projects
    page.goto(link)
    expect(page.locator("#what")).to_contain_text("used, replaced, or has expired")


def test_what_is_refused_is_shown_and_nothing_entered_is_lost(
    browser_page: Callable[..., Page],
) -> None:
    page = browser_page(None)
    page.goto("/login?next=//evil.example")
    page.get_by_label("E-mail address").fill("rater2@example.org")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text(
        "E-mail address and password do not fit together."
    )
    expect(page.get_by_role("alert")).to_be_focused()
    assert page.get_by_label("E-mail address").input_value() == "rater2@example.org"
    page.get_by_label("Password").fill(WORDS)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/projects")


def test_no_script_or_style_of_a_page_itself_runs(browser_page: Callable[..., Page]) -> None:
    page = browser_page("rater")
    seen = complaints(page)
    page.goto("/account")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            try { script.textContent = "window.ran = 1"; } catch (e) { console.error(e.message); }
            document.body.append(script);
            document.body.setAttribute("style", "color: red");
            const image = new Image(); image.src = "https://evil.example/x.png";
            try { document.body.innerHTML = "<b>x</b>"; } catch (e) { console.error(e.message); }
        }"""
    )
    assert page.evaluate("window.ran") is None
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    assert page.get_by_role("heading", name="Your account").is_visible()  # innerHTML was refused
    assert sum("TrustedHTML" in line for line in seen) >= 1
    assert sum("img-src" in line for line in seen) == 1


def test_a_request_is_repeated_under_its_key_until_the_server_is_reached(
    browser_page: Callable[..., Page], site: Site
) -> None:
    page = browser_page("admin")
    keys: list[str] = []
    page.on("request", lambda one: keys.append(one.headers.get("idempotency-key", "")))
    page.goto("/account")
    go_offline(page)
    page.evaluate(
        """() => import("/static/api.js").then(({ post }) => {
            const body = {role: "admin", project_id: null};
            post("/api/invites", body).then((answer) => { window.answer = answer; });
        })"""
    )
    expect(page.locator("#connection")).to_contain_text("not saved yet")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_contain_text("Connected again")
    wait_until(page, "window.answer !== undefined")
    assert page.evaluate("window.answer.link").startswith(f"{site.url}/invite#")
    sent = [key for key in keys if key]
    assert len(sent) >= 2
    assert len(set(sent)) == 1


def test_a_page_of_an_older_session_goes_on_after_signing_in_again(
    browser_page: Callable[..., Page], site: Site
) -> None:
    page = browser_page(None)
    page.goto("/login")
    other = page.context.new_page()
    other.goto("/login")
    other.get_by_label("E-mail address").fill("lead@example.org")
    other.get_by_label("Password").fill(WORDS)
    other.get_by_role("button", name="Sign in").click()
    other.wait_for_url("**/projects")
    page.evaluate(
        """(project) => import("/static/api.js").then(({ post }) =>
            post("/api/invites", {role: "rater", project_id: project})
        ).then((answer) => { window.answer = answer; })""",
        site.project_id,
    )
    wait_until(page, "window.answer?.link")


UNNAMED = """
() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
    .filter((field) => field.labels.length === 0).map((field) => field.outerHTML)
"""
SMALL = """
() => [...document.querySelectorAll("button, .button, nav a, input, select")]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 36)
    .map((e) => e.outerHTML)
"""


@pytest.mark.parametrize("role", list(PAGES))
def test_every_page_fits_has_one_heading_and_can_be_used_by_keyboard(
    browser_page: Callable[..., Page], axe: str, role: str | None
) -> None:
    page = browser_page(role)
    for path in PAGES[role]:
        page.goto(path)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip-link", path
        assert page.locator("h1").count() == 1, path
        assert page.evaluate(UNNAMED) == [], path
        assert offences(page, axe) == [], path
        for width, height in (DESKTOP, PHONE):
            page.set_viewport_size({"width": width, "height": height})
            assert sideways(page) <= 0, (path, width)
            assert page.evaluate(SMALL) == [], (path, width)
