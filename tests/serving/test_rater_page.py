"""A rater at work in Chromium: by keyboard, beside another rater, through a lost server."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect
from tests.serving.conftest import COOKIE, Cast, Server, complaints, open_page
from tests.serving.rater_world import (
    BAD,
    GOOD,
    Place,
    compared,
    comparisons,
    go,
    label_url,
    log_of,
    make_place,
    press,
    said_of,
    side_of,
    verdicts,
    wait_for_item,
)

from preftune.store.database import Database
from preftune.store.items import Verdict, add_items, of_comparison, of_response
from preftune.store.projects import ProjectSettings
from preftune.types import Response, assistant, make_prompt, user

Open = Callable[..., Page]

ASKED = make_prompt(user("how do I wash it?"))
BLUNT = Response(id="r", prompt_id=ASKED.id, messages=(assistant("No. Wash it by hand."),))
FINER: dict[str, Verdict] = {"overall": {"kind": "scale", "grade": 1, "why": "It is finer."}}
PRACTICE = of_comparison(compared(9), use="calibration", gold=FINER)
REASONS = ("clear", "kind")

PLACES = {
    "fifty": Place(new=comparisons(50), settings=ProjectSettings(reasons=REASONS)),
    "two": Place(new=comparisons(16)),
    "killed": Place(new=comparisons(3)),
    "away": Place(new=comparisons(2)),
    "lost": Place(new=comparisons(2)),
    "reload": Place(new=comparisons(2), settings=ProjectSettings(reasons=REASONS)),
    "undo": Place(new=comparisons(5)),
    "fields": Place(new=comparisons(2)),
    "buttons": Place(new=comparisons(2)),
    "enter": Place(new=comparisons(2)),
    "several": Place(
        new=comparisons(1),
        settings=ProjectSettings(dimensions=("helpful", "tone"), reasons=REASONS),
    ),
    "binary": Place(new=comparisons(3), settings=ProjectSettings(kind="binary")),
    "no tie": Place(new=comparisons(1), settings=ProjectSettings(tie=False)),
    "rewrite": Place(
        new=[of_response(ASKED, BLUNT)], settings=ProjectSettings(kind="rewrite")
    ),
    "practice": Place(new=[PRACTICE, *comparisons(1)]),
    "guideline": Place(new=comparisons(2), guidelines=("# One\n\nbe fair", "be fair, always")),
    "break": Place(new=comparisons(3), settings=ProjectSettings(break_minutes=0.005)),
    "signed out": Place(new=comparisons(2)),
    "windows": Place(new=comparisons(2)),
    "fetched": Place(new=comparisons(3)),
    "instant": Place(new=comparisons(3)),
}  # fmt: skip


@pytest.fixture(scope="module")
def places() -> dict[str, str]:
    """Name → id of the projects, once the server runs."""
    return {}


@pytest.fixture(scope="module")
def fill_store(places: dict[str, str]) -> Callable[[Database, Cast], None]:
    def fill(database: Database, cast: Cast) -> None:
        for name, place in PLACES.items():
            places[name] = make_place(database, cast, name, place)

    return fill


@pytest.fixture
def at(server: Server, places: dict[str, str], browser_page: Open) -> Open:
    """Open the page of a project, and wait for its first item."""

    def open_(name: str, role: str = "rater") -> Page:
        page = browser_page(role)
        go(page, places[name])
        return page

    return open_


def meant(page: Page, grade: int) -> str:
    """Return the key for a grade of the better response against the worse one."""
    return str(grade if side_of(page, GOOD) == 0 else 8 - grade)


def pressed(page: Page) -> Any:
    return page.locator('.choice[aria-pressed="true"]')


def finished(page: Page) -> None:
    expect(page.locator("#nothing")).to_be_visible()


def test_fifty_items_by_keyboard_alone_are_fifty_right_verdicts(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("fifty")
    said = complaints(page)
    wanted = {}
    for number in range(1, 51):
        grade = number % 7 + 1
        question = page.locator("#prompt-turns").inner_text().rpartition(" ")[2].strip()
        wanted[f"c{question}"] = grade
        press(page, meant(page, grade))
        if number % 10 == 0:
            press(page, "Shift+Digit2", "w")
            page.keyboard.type("well said, T S F U 1 2 3")
            press(page, "Escape")
        press(page, "Enter")
        if number < 50:
            wait_for_item(page, number + 1)
    finished(page)
    expect(page.locator("#heading")).to_be_focused()
    rater = server.cast.ids["rater"]
    assert verdicts(server, places["fifty"]) == {
        name: [(rater, {"kind": "scale", "grade": grade})] for name, grade in wanted.items()
    }
    log = [event for event in log_of(server, places["fifty"]) if event.user_id == rater]
    assert [event.type for event in log] == ["shown", "voted"] * 50
    reasons = [event.data["why"].get("overall") for event in log if event.type == "voted"]
    assert reasons == ([None] * 9 + ["[kind] well said, T S F U 1 2 3"]) * 5
    assert said == []


def test_two_raters_at_once_never_exceed_what_is_wanted(
    server: Server, places: dict[str, str], at: Open
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
    found = verdicts(server, places["two"])
    assert len(found) == 16
    assert all(len(said) == 1 for said in found.values())


def test_a_server_killed_between_vote_and_next_page_loses_and_doubles_nothing(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("killed")
    killed: list[Request] = []

    def kill_before_next(route: Any, request: Request) -> None:
        if not killed:
            killed.append(request)
            server.kill()
        route.continue_()

    page.route("**/label/next", kill_before_next)
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
    assert verdicts(server, places["killed"]) == {
        name: [(rater, better)] for name in ("c0", "c1", "c2")
    }


def test_a_vote_while_the_server_is_away_is_sent_once_it_is_back(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("away")
    key = meant(page, 1)
    server.kill()
    press(page, key, "Enter")
    expect(page.locator("#connection")).to_contain_text("not saved yet")
    press(page, "Enter", "Enter", "s")  # impatience sends nothing more
    server.start()
    wait_for_item(page, 2)
    (said,) = verdicts(server, places["away"]).values()
    assert said == [(server.cast.ids["rater"], {"kind": "scale", "grade": 1})]


def test_a_vote_whose_answer_got_lost_is_not_doubled_by_its_retry(
    server: Server, places: dict[str, str], at: Open
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

    page.route("**/label/vote", commit_but_lose_the_answer)
    press(page, "3", "Enter")
    wait_for_item(page, 2)
    assert len(keys) == 2
    (said,) = verdicts(server, places["lost"]).values()
    assert len(said) == 1
    voted = [event.key for event in log_of(server, places["lost"]) if event.type == "voted"]
    assert voted == keys[:1] == keys[1:]


def test_a_reload_keeps_the_unfinished_verdict_and_a_vote_without_an_answer(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("reload")
    press(page, "6", "Shift+Digit1", "w")
    page.keyboard.type("half a thought")
    page.reload()
    wait_for_item(page, 1)
    expect(pressed(page)).to_contain_text("B better")
    expect(page.locator('.why .chip[aria-pressed="true"]')).to_have_text("clear")
    expect(page.locator("#why-text")).to_have_value("half a thought")
    page.route("**/label/vote", lambda route: route.abort())
    press(page, "Enter")
    expect(page.locator("#connection")).to_contain_text("not saved yet")
    page.unroute("**/label/vote")
    page.reload()
    wait_for_item(page, 2)
    kept = page.evaluate("Object.keys(localStorage).filter((key) => /draft|outbox/.test(key))")
    assert kept == []
    (said,) = verdicts(server, places["reload"]).values()
    assert said[0][1]["grade"] in (2, 6)


def test_undo_change_skip_and_flag_by_keyboard(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("undo")
    prompt = page.locator("#prompt-turns")
    first = prompt.inner_text()
    press(page, "1", "Enter")
    wait_for_item(page, 2)
    press(page, "u")
    expect(page.locator("#item-number")).to_have_text("Taken back")
    assert prompt.inner_text() == first
    expect(pressed(page)).to_contain_text("A much better")
    press(page, "7", "Enter")
    wait_for_item(page, 2)
    skipped = prompt.inner_text()
    press(page, "s")
    expect(prompt).not_to_have_text(skipped, use_inner_text=True)
    wait_for_item(page, 2)
    flagged = prompt.inner_text()
    press(page, "f")
    page.keyboard.type("cut off")
    press(page, "Control+Enter")
    expect(prompt).not_to_have_text(flagged, use_inner_text=True)
    wait_for_item(page, 2)
    press(page, "h")
    page.get_by_role("button", name="Change the verdict").click()
    expect(page.locator("#item-number")).to_have_text("An earlier item")
    assert prompt.inner_text() == first
    expect(pressed(page)).to_contain_text("B much better")
    press(page, "4", "Enter")
    wait_for_item(page, 2)
    rater = server.cast.ids["rater"]
    assert list(verdicts(server, places["undo"]).values()) == [
        [(rater, {"kind": "scale", "grade": 4})]
    ]
    log = [event for event in log_of(server, places["undo"]) if event.user_id == rater]
    assert [event.type for event in log if event.type != "shown"] == [
        "voted", "undone", "voted", "skipped", "flagged", "revised",
    ]  # fmt: skip
    assert [event.data["why"] for event in log if event.type == "flagged"] == ["cut off"]


def test_keys_do_nothing_in_fields_dialogs_or_with_control(at: Open) -> None:
    page = at("fields")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    press(page, "w")
    page.keyboard.type("sfut12")
    press(page, "Enter", "Escape")
    expect(page.locator("#heading")).to_be_focused()
    press(page, "?", "s", "f", "3", "Escape")
    press(page, "Control+s", "Alt+f")
    expect(pressed(page)).to_have_count(0)
    press(page, "?")
    page.get_by_role("button", name="Single keys act").click()
    press(page, "Escape", "3", "s")
    expect(pressed(page)).to_have_count(0)
    assert "POST" not in sent


def test_every_key_is_a_button_too(server: Server, places: dict[str, str], at: Open) -> None:
    page = at("buttons")
    page.get_by_role("button", name="B slightly better").click()
    page.get_by_role("button", name="Save").click()
    wait_for_item(page, 2)
    for name in ("Guideline", "My verdicts", "Keys"):
        page.get_by_role("button", name=name).click()
        page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#item-number")).to_have_text("Taken back")
    page.get_by_role("button", name="Skip").click()
    wait_for_item(page, 1)
    page.get_by_role("button", name="Flag").click()
    page.get_by_label("What is wrong with it?").fill("all of it")
    page.get_by_role("button", name="Flag it").click()
    finished(page)
    assert verdicts(server, places["buttons"]) == {}


def test_enter_saves_from_a_chosen_verdict_but_presses_other_buttons(at: Open) -> None:
    page = at("enter")
    page.get_by_role("button", name="A better").click()
    press(page, "Enter")
    wait_for_item(page, 2)
    page.get_by_role("button", name="A better").focus()
    press(page, "Enter")
    expect(pressed(page)).to_contain_text("A better")
    expect(page.locator("#item-number")).to_have_text("Item 2")


def test_several_dimensions_take_a_verdict_and_a_reason_each(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("several")
    press(page, "Enter")
    expect(page.locator("#status")).to_have_text("Not yet said: helpful, tone.")
    press(page, "2", "Enter")
    expect(page.locator("#status")).to_have_text("Give your verdict first.")
    press(page, "w")
    page.keyboard.type("for helpful")
    press(page, "Escape", "4", "Shift+Digit1", "Enter")
    finished(page)
    (vote,) = [event for event in log_of(server, places["several"]) if event.type == "voted"]
    assert vote.data["verdicts"] == {
        "helpful": {"kind": "scale", "grade": 2},
        "tone": {"kind": "scale", "grade": 4},
    }
    assert vote.data["why"] == {"helpful": "for helpful", "tone": "[clear]"}


def test_binary_with_a_tie_and_arrows(server: Server, places: dict[str, str], at: Open) -> None:
    page = at("binary")
    press(page, "t", "Enter")
    wait_for_item(page, 2)
    press(page, "ArrowLeft" if side_of(page, GOOD) == 0 else "ArrowRight", "Enter")
    wait_for_item(page, 3)
    press(page, "1" if side_of(page, BAD) == 0 else "2", "Enter")
    finished(page)
    found = [said[0][1] for said in verdicts(server, places["binary"]).values()]
    assert found == [
        {"kind": "tie"},
        {"kind": "binary", "choice": 0},
        {"kind": "binary", "choice": 1},
    ]


def test_no_tie_where_none_is_on_offer(at: Open) -> None:
    page = at("no tie")
    press(page, "4", "t")
    expect(page.locator(".choice")).to_have_count(6)
    expect(pressed(page)).to_have_count(0)
    press(page, "3", "ArrowRight")
    expect(pressed(page)).to_contain_text("B slightly better")


def test_a_rewrite_shows_its_changes_and_is_stored_as_typed(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("rewrite")
    press(page, "e")
    expect(page.locator("#rewrite-text")).to_be_focused()
    page.locator("#rewrite-text").fill("Better not. Wash it gently by hand.")
    assert page.locator(".diff del").all_inner_texts() == ["No"]
    assert page.locator(".diff ins").all_text_contents() == ["Better not", " gently"]
    press(page, "Control+Enter")
    finished(page)
    (said,) = verdicts(server, places["rewrite"]).values()
    assert said[0][1] == {"kind": "rewrite", "rewrite": "Better not. Wash it gently by hand."}


def test_practice_tells_what_was_expected_before_the_next_item(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("practice")
    expect(page.locator("#item-number")).to_have_text("Practice 1")
    press(page, meant(page, 6), "Enter")
    expect(page.locator(".feedback")).to_contain_text("much better")
    expect(page.locator(".feedback")).to_contain_text("It is finer.")
    press(page, "s", "u")  # nothing but going on
    press(page, "Enter")
    wait_for_item(page, 2)
    assert set(verdicts(server, places["practice"])) == {"c9"}


def test_a_new_guideline_is_marked_until_it_is_read(at: Open) -> None:
    page = at("guideline")
    note = page.locator("#note-guideline")
    expect(note).to_contain_text("Read it before you begin")
    page.evaluate(
        """() => { const {project, person} = document.getElementById("rater").dataset;
        localStorage.setItem(`preftune:${project}:${person}:guideline`, "1"); }"""
    )
    page.reload()
    wait_for_item(page, 1)
    expect(note).to_contain_text("changed since you last looked: version 2")
    expect(page.locator("#open-guideline")).to_contain_text("Guideline 2")
    press(page, "g")
    expect(page.get_by_role("dialog")).to_contain_text("be fair, always")
    press(page, "Escape")
    expect(note).to_have_count(0)
    page.reload()
    wait_for_item(page, 1)
    expect(note).to_have_count(0)


def test_a_break_is_proposed_after_the_time_that_the_project_sets(at: Open) -> None:
    page = at("break")
    note = page.locator("#note-break")
    page.wait_for_timeout(400)
    press(page, "3", "Enter")
    wait_for_item(page, 2)
    expect(note).to_contain_text("A short break")
    page.get_by_role("button", name="I had one").click()
    expect(note).to_have_count(0)


def test_whoever_is_signed_out_keeps_what_was_said(
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("signed out")
    page.context.clear_cookies()
    press(page, "2", "Enter")
    expect(page.locator("#note-refused")).to_contain_text("signed out")
    token = server.tokens["rater"]
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": server.url}])
    page.goto(label_url(places["signed out"]))
    wait_for_item(page, 2)
    assert [len(said) for said in verdicts(server, places["signed out"]).values()] == [1]


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
    server: Server, places: dict[str, str], at: Open
) -> None:
    page = at("fetched")
    press(page, "m", "d", "l", "g")
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, "Escape")
    page.reload()
    wait_for_item(page, 1)
    types = [event.type for event in log_of(server, places["fetched"])]
    assert types.count("shown") == 1


def test_a_verdict_can_be_saved_as_soon_as_it_is_given(at: Open) -> None:
    page = at("instant")
    press(page, "?")
    page.get_by_role("button", name="Save as soon as").click()
    press(page, "Escape", "3")
    wait_for_item(page, 2)
    press(page, "5")
    wait_for_item(page, 3)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_takes_what_a_page_says(
    database_url: str, make_server: Callable[..., Server], browser: Browser
) -> None:
    def fill(database: Database, cast: Cast) -> None:
        lead, place = cast.ids["lead"], cast.project_id
        database.write(lambda db: add_items(db, place, comparisons(2), by=lead))

    server = make_server(fill, store=database_url)
    page = open_page(browser, server, "rater")
    go(page, server.project_id)
    press(page, meant(page, 3), "w")
    page.keyboard.type("why? “því”")
    press(page, "Control+Enter")
    wait_for_item(page, 2)
    page.context.close()
    with server.database() as database, database.read() as db:
        (said,) = said_of(db, server.project_id).values()
    assert said[0][1] == {"kind": "scale", "grade": 3}
    assert re.fullmatch(r"usr-\w+", said[0][0])
