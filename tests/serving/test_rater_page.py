"""A rater at work in Chromium: every kind of verdict, by key and by button."""

import pytest
from playwright.sync_api import expect
from tests.serving.browser_world import Site, complaints
from tests.serving.rater_world import (
    BAD,
    GOOD,
    Open,
    Place,
    compared,
    comparisons,
    finished,
    log_of,
    meant,
    press,
    pressed,
    side_of,
    verdicts,
    wait_for_item,
)

from preftune.store.items import Verdict, of_comparison
from preftune.store.projects import ProjectSettings

FINER: dict[str, Verdict] = {"overall": {"kind": "scale", "grade": 1, "why": "It is finer."}}
PRACTICE = of_comparison(compared(9), use="calibration", gold=FINER)
REASONS = ("clear", "kind")

PLACES = {
    "fifty": Place(new=comparisons(50), settings=ProjectSettings(reasons=REASONS)),
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
    "practice": Place(new=[PRACTICE, *comparisons(1)]),
    "guideline": Place(new=comparisons(2), guidelines=("# One\n\nbe fair", "be fair, always")),
    "break": Place(new=comparisons(3), settings=ProjectSettings(break_minutes=0.005)),
    "instant": Place(new=comparisons(3)),
}  # fmt: skip


@pytest.fixture(scope="module")
def projects_wanted() -> dict[str, Place]:
    return PLACES


def test_fifty_items_by_keyboard_alone_are_fifty_right_verdicts(
    site: Site, places: dict[str, str], at: Open
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
    rater = site.cast.ids["rater"]
    assert verdicts(site, places["fifty"]) == {
        name: [(rater, {"kind": "scale", "grade": grade})] for name, grade in wanted.items()
    }
    log = [event for event in log_of(site, places["fifty"]) if event.user_id == rater]
    assert [event.type for event in log] == ["shown", "voted"] * 50
    reasons = [event.data["why"].get("overall") for event in log if event.type == "voted"]
    assert reasons == ([None] * 9 + ["[kind] well said, T S F U 1 2 3"]) * 5
    assert said == []


def test_undo_change_skip_and_flag_by_keyboard(
    site: Site, places: dict[str, str], at: Open
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
    rater = site.cast.ids["rater"]
    assert list(verdicts(site, places["undo"]).values()) == [
        [(rater, {"kind": "scale", "grade": 4})]
    ]
    log = [event for event in log_of(site, places["undo"]) if event.user_id == rater]
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


def test_every_key_is_a_button_too(site: Site, places: dict[str, str], at: Open) -> None:
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
    assert verdicts(site, places["buttons"]) == {}


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
    site: Site, places: dict[str, str], at: Open
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
    (vote,) = [event for event in log_of(site, places["several"]) if event.type == "voted"]
    assert vote.data["verdicts"] == {
        "helpful": {"kind": "scale", "grade": 2},
        "tone": {"kind": "scale", "grade": 4},
    }
    assert vote.data["why"] == {"helpful": "for helpful", "tone": "[clear]"}


def test_binary_with_a_tie_and_arrows(site: Site, places: dict[str, str], at: Open) -> None:
    page = at("binary")
    press(page, "t", "Enter")
    wait_for_item(page, 2)
    press(page, "ArrowLeft" if side_of(page, GOOD) == 0 else "ArrowRight", "Enter")
    wait_for_item(page, 3)
    press(page, "1" if side_of(page, BAD) == 0 else "2", "Enter")
    finished(page)
    found = [said[0][1] for said in verdicts(site, places["binary"]).values()]
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


def test_practice_tells_what_was_expected_before_the_next_item(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("practice")
    expect(page.locator("#item-number")).to_have_text("Practice 1")
    press(page, meant(page, 6), "Enter")
    expect(page.locator(".feedback")).to_contain_text("much better")
    expect(page.locator(".feedback")).to_contain_text("It is finer.")
    press(page, "s", "u")  # nothing but going on
    press(page, "Enter")
    wait_for_item(page, 2)
    assert set(verdicts(site, places["practice"])) == {"c9"}


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


def test_a_verdict_can_be_saved_as_soon_as_it_is_given(at: Open) -> None:
    page = at("instant")
    press(page, "?")
    page.get_by_role("button", name="Save as soon as").click()
    press(page, "Escape", "3")
    wait_for_item(page, 2)
    press(page, "5")
    wait_for_item(page, 3)
