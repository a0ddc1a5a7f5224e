"""A rater's page in trouble: a lost server, a lost answer, a reload, a second window."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Request, expect
from tests.serving.browser_world import COOKIE, Site, go_offline, intercept, open_page
from tests.serving.conftest import Cast, Server, open_site
from tests.serving.rater_world import (
    Open,
    Place,
    comparisons,
    finished,
    go,
    label_url,
    log_of,
    meant,
    press,
    pressed,
    verdicts,
    wait_for_item,
)

from preftune.store.database import Database
from preftune.store.items import add_items
from preftune.store.projects import ProjectSettings

REASONS = ProjectSettings(reasons=("clear", "kind"))
PLACES = {
    "two": Place(new=comparisons(16)),
    "away": Place(new=comparisons(2)),
    "lost": Place(new=comparisons(2)),
    "reload": Place(new=comparisons(2), settings=REASONS),
    "signed out": Place(new=comparisons(2)),
    "windows": Place(new=comparisons(2)),
    "fetched": Place(new=comparisons(3)),
}


@pytest.fixture(scope="module")
def projects_wanted() -> dict[str, Place]:
    return PLACES


def test_a_server_killed_between_a_vote_and_its_answer_loses_and_doubles_nothing(
    make_server: Callable[..., Server], browser: Browser
) -> None:
    def fill(database: Database, cast: Cast) -> None:
        lead, place = cast.ids["lead"], cast.project_id
        database.write(lambda db: add_items(db, place, comparisons(3), by=lead))

    server = make_server(fill)
    page = open_page(browser, server, "rater")
    go(page, server.project_id)
    killed: list[Request] = []

    def commit_and_kill(route: Any, request: Request) -> None:
        if killed:
            route.continue_()
            return
        killed.append(request)
        assert route.fetch().status == 200
        server.kill()
        route.abort("connectionreset")

    intercept(page, "**/label/vote", commit_and_kill)
    press(page, meant(page, 2), "Enter")
    expect(page.locator("#connection")).to_contain_text("keeps trying")
    server.start()
    wait_for_item(page, 2)
    expect(page.locator("#connection")).to_contain_text("Connected again")
    press(page, meant(page, 2), "Enter")
    wait_for_item(page, 3)
    press(page, meant(page, 2), "Enter")
    finished(page)
    (rater, better) = (server.cast.ids["rater"], {"kind": "scale", "grade": 2})
    assert verdicts(server, server.project_id) == {
        name: [(rater, better)] for name in ("c0", "c1", "c2")
    }
    page.context.close()


def test_a_vote_while_the_server_is_away_is_sent_once_it_is_back(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("away")
    key = meant(page, 1)
    go_offline(page)
    press(page, key, "Enter")
    expect(page.locator("#connection")).to_contain_text("not saved yet")
    press(page, "Enter", "Enter", "s")  # impatience sends nothing more
    page.context.set_offline(False)
    wait_for_item(page, 2)
    (said,) = verdicts(site, places["away"]).values()
    assert said == [(site.cast.ids["rater"], {"kind": "scale", "grade": 1})]


def test_two_raters_at_once_never_exceed_what_is_wanted(
    site: Site, places: dict[str, str], at: Open
) -> None:
    pages = [at("two", role) for role in ("rater", "rater2")]
    seen: list[set[str]] = [set(), set()]
    for number in range(2, 10):
        for page, mine in zip(pages, seen, strict=True):
            mine.add(page.locator("#prompt-turns").inner_text())
            press(page, "3", "Enter")
        for page in pages:
            if number < 9:
                wait_for_item(page, number)
            else:
                finished(page)
    assert not seen[0] & seen[1]
    found = verdicts(site, places["two"])
    assert len(found) == 16
    assert all(len(said) == 1 for said in found.values())


def test_a_vote_whose_answer_got_lost_is_not_doubled_by_its_retry(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("lost")
    keys: list[str] = []

    def commit_but_lose_the_answer(route: Any, request: Request) -> None:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            assert route.fetch().status == 200
            route.abort("connectionreset")
        else:
            route.continue_()

    intercept(page, "**/label/vote", commit_but_lose_the_answer)
    press(page, "3", "Enter")
    wait_for_item(page, 2)
    assert len(keys) == 2
    (said,) = verdicts(site, places["lost"]).values()
    assert len(said) == 1
    voted = [event.key for event in log_of(site, places["lost"]) if event.type == "voted"]
    assert voted == keys[:1] == keys[1:]


def test_a_reload_keeps_the_unfinished_verdict_and_a_vote_without_an_answer(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("reload")
    press(page, "6", "Shift+Digit1", "w")
    page.keyboard.type("half a thought")
    page.reload()
    wait_for_item(page, 1)
    expect(pressed(page)).to_contain_text("B better")
    expect(page.locator('.why .chip[aria-pressed="true"]')).to_have_text("clear")
    expect(page.locator("#why-text")).to_have_value("half a thought")
    intercept(page, "**/label/vote", lambda route: route.abort())
    press(page, "Enter")
    expect(page.locator("#connection")).to_contain_text("not saved yet")
    page.unroute("**/label/vote")
    page.reload()
    wait_for_item(page, 2)
    kept = page.evaluate("Object.keys(localStorage).filter((key) => /draft|outbox/.test(key))")
    assert kept == []
    (said,) = verdicts(site, places["reload"]).values()
    assert said[0][1]["grade"] in (2, 6)


def test_whoever_is_signed_out_keeps_what_was_said(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("signed out")
    page.context.clear_cookies()
    press(page, "2", "Enter")
    expect(page.locator("#note-refused")).to_contain_text("signed out")
    token = site.tokens["rater"]
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": site.url}])
    page.goto(label_url(places["signed out"]))
    wait_for_item(page, 2)
    assert [len(said) for said in verdicts(site, places["signed out"]).values()] == [1]


def test_an_item_judged_in_another_window_is_said_and_left(
    places: dict[str, str], at: Open
) -> None:
    first = at("windows")
    second = first.context.new_page()
    go(second, places["windows"])
    press(first, "2", "Enter")
    wait_for_item(first, 2)
    press(second, "6", "Enter")
    expect(second.locator("#note-refused")).to_contain_text("judged it already")
    second.get_by_role("button", name="Fetch the next item").click()
    wait_for_item(second, 2)


def test_nothing_is_fetched_that_would_count_as_shown(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("fetched")
    press(page, "m", "d", "l", "g")
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, "Escape")
    page.reload()
    wait_for_item(page, 1)
    types = [event.type for event in log_of(site, places["fetched"])]
    assert types.count("shown") == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_takes_what_a_page_says(database_url: str, browser: Browser) -> None:
    def fill(database: Database, cast: Cast) -> None:
        lead, place = cast.ids["lead"], cast.project_id
        database.write(lambda db: add_items(db, place, comparisons(2), by=lead))

    with open_site(database_url, fill) as site:
        page = open_page(browser, site, "rater")
        go(page, site.project_id)
        press(page, meant(page, 3), "w")
        page.keyboard.type("why? “því”")
        press(page, "Control+Enter")
        wait_for_item(page, 2)
        page.context.close()
        (said,) = verdicts(site, site.project_id).values()
    assert said[0][1] == {"kind": "scale", "grade": 3}
    assert re.fullmatch(r"usr-\w+", said[0][0])
