"""The page for everybody: by keyboard or pointer, on a phone, with a screen reader, in the dark."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect
from tests.serving.browser_world import (
    DESKTOP,
    PHONE,
    POLL_MS,
    Site,
    offences,
    sideways,
    wait_until,
)
from tests.serving.rater_world import (
    Open,
    Place,
    answer,
    compared,
    comparisons,
    press,
    verdicts,
    wait_for_item,
)

from preftune.store.items import Verdict, of_comparison, of_response
from preftune.store.projects import ProjectSettings
from preftune.types import Comparison, Message, make_prompt, user

TEXTS = ("first of all\n\n- a\n- b", "second " * 200, "third: `" + "x" * 300 + "`", "fourth")


PROMPT = make_prompt(Message(role="system", content="be kind"), user("which?"))
FOUR = tuple(answer(PROMPT, text, at) for at, text in enumerate(TEXTS))
RANKED = [of_comparison(Comparison(id=f"c{n}", prompt=PROMPT, responses=FOUR)) for n in range(3)]
GOLD: dict[str, Verdict] = {name: {"kind": "scale", "grade": 1} for name in ("helpful", "tone")}
RANKING = ProjectSettings(kind="ranking", raters_per_item=9, reasons=("clear", "kind"))

PLACES = {
    "ranking": Place(new=RANKED, settings=RANKING, guidelines=("# Be\n\nfair",)),
    "order": Place(new=RANKED, settings=RANKING),
    "scale": Place(
        new=[of_comparison(compared(9), use="calibration", gold=GOLD), *comparisons(1)],
        settings=ProjectSettings(dimensions=("helpful", "tone"), reasons=("kind",)),
        guidelines=("fair",),
    ),
    "long": Place(new=[of_comparison(compared(1, "short. " * 700, "long. " * 6000))]),
    "keyboards": Place(new=comparisons(2), settings=ProjectSettings(reasons=("clear", "kind"))),
    "rewrite": Place(new=[of_response(PROMPT, FOUR[0])], settings=ProjectSettings(kind="rewrite")),
}


@pytest.fixture(scope="module")
def projects_wanted() -> dict[str, Place]:
    return PLACES


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_axe_finds_nothing_serious(at: Open, axe: str, size: tuple[int, int]) -> None:
    page = at("ranking", size=size)
    assert offences(page, axe) == []
    press(page, "m")
    expect(page.locator(".turn.user .markdown").first).to_be_visible()
    assert offences(page, axe) == []
    for key in ("g", "h", "?", "f"):
        press(page, key)
        expect(page.get_by_role("dialog")).to_be_visible()
        assert offences(page, axe) == [], key
        press(page, "Escape")


def test_axe_finds_nothing_serious_in_the_other_states(at: Open, axe: str) -> None:
    page = at("scale")
    press(page, "2", "7", "d")
    assert offences(page, axe) == []
    press(page, "Enter")
    expect(page.locator(".feedback")).to_be_visible()
    assert offences(page, axe) == []
    press(page, "Enter")
    wait_for_item(page, 2)
    press(page, "s")
    expect(page.locator("#nothing")).to_be_visible()
    assert offences(page, axe) == []
    page = at("rewrite")
    page.locator("#rewrite-text").fill("something else")
    assert offences(page, axe) == []


def test_a_phone_never_scrolls_sideways_and_switches_responses(
    at: Open,
) -> None:
    page = at("ranking", "rater2", size=PHONE)
    assert sideways(page) <= 0
    shown = page.locator(".response:visible")
    expect(shown).to_have_count(1)
    page.locator("#switch").get_by_role("button", name="C").tap()
    expect(shown).to_have_attribute("data-label", "C")
    for key in ("m", "g", "Escape", "h", "Escape", "?", "Escape", "f", "Escape"):
        press(page, key)
        assert sideways(page) <= 0, key
    box = page.locator("#save").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= PHONE[1]
    assert box["height"] >= 44


def test_wide_screens_show_all_responses_at_a_readable_measure(
    at: Open,
) -> None:
    page = at("ranking", "rater2", size=(1920, 1080))
    expect(page.locator(".response:visible")).to_have_count(4)
    widest: float = page.evaluate(
        """() => {
          const width = (one) => one.getBoundingClientRect().width;
          const probe = document.createElement("span");
          probe.textContent = "0".repeat(75);
          document.querySelector(".text").append(probe);
          const most = width(probe);
          probe.remove();
          return Math.max(...[...document.querySelectorAll(".text")].map(width)) / most;
        }"""
    )
    assert widest <= 1.01


def order(page: Page) -> list[list[str]]:
    """Return the ranking on the page: tied labels together, best first."""
    rows: list[list[str]] = page.evaluate(
        """() => [...document.querySelectorAll(".ranking li")].map((row) =>
          [".place", "strong"].map((part) => row.querySelector(part).textContent))"""
    )
    found: dict[str, list[str]] = {}
    for place, label in rows:
        found.setdefault(place, []).append(label)
    return list(found.values())


def drag(page: Page, label: str, place: int) -> None:
    """Drag a response with the pointer so that it hangs over a place, counted from 0."""
    grip = page.locator(f'.ranking li:has(strong:text-is("{label}")) .grip')
    rows = page.locator(".ranking li")
    start, target = grip.bounding_box(), rows.nth(place).bounding_box()
    assert start is not None
    assert target is not None
    at = [row.inner_text().split()[-1] for row in page.locator(".ranking strong").all()].index(
        label
    )
    below = target["height"] * (0.9 if place > at else 0.1)
    page.mouse.move(start["x"] + 20, start["y"] + 10)
    page.mouse.down()
    page.mouse.move(start["x"] + 20, start["y"] + 40, steps=3)
    page.mouse.move(start["x"] + 20, target["y"] + below, steps=4)
    page.mouse.up()
    expect(grip).to_be_focused()


def put_by_key(page: Page, label: str, place: int) -> None:
    grip = page.locator(f'.ranking li:has(strong:text-is("{label}")) .grip')
    grip.focus()
    page.keyboard.press(str(place + 1))
    expect(grip).to_be_focused()


def test_ranking_by_keyboard_equals_ranking_by_pointer(
    at: Open,
) -> None:
    with_keys, with_mouse = at("ranking", "rater"), at("ranking", "rater2")
    rng = random.Random(3)
    for _ in range(7):
        label, place = rng.choice("ABCD"), rng.randrange(4)
        put_by_key(with_keys, label, place)
        drag(with_mouse, label, place)
        for _ in range(100):  # the page draws the new order with its next frame
            if order(with_keys) == order(with_mouse):
                break
            with_mouse.wait_for_timeout(POLL_MS)
        assert order(with_keys) == order(with_mouse), (label, place)


def test_a_ranking_counts_once_it_was_touched_and_ties_can_be_made(
    site: Site, places: dict[str, str], at: Open
) -> None:
    page = at("order")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Give your verdict first.")
    shown = [text.strip()[:5] for text in page.locator(".response .pane").all_inner_texts()]
    page.keyboard.press("ArrowDown")  # to the list: A
    for key in ("ArrowDown", "Space", "ArrowUp", "Space"):  # B before A
        page.keyboard.press(key)
    assert order(page) == [["B"], ["A"], ["C"], ["D"]]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("=")  # A shares the place of B
    assert order(page) == [["B", "A"], ["C"], ["D"]]
    page.keyboard.press("Escape")
    page.locator("#heading").focus()
    page.keyboard.press("Enter")
    wait_for_item(page, 2)
    page.keyboard.press("o")
    page.keyboard.press("Enter")
    wait_for_item(page, 3)
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    expect(page.locator("#nothing")).to_be_visible()
    found = verdicts(site, places["order"])
    taken = [[text[:5] for text in TEXTS].index(text) for text in shown]
    (ranked,) = [
        said[0][1]["ranking"] for said in found.values() if len(said[0][1]["ranking"]) == 3
    ]
    assert ranked == [sorted(taken[:2]), [taken[2]], [taken[3]]]
    sizes = sorted(len(said[0][1]["ranking"]) for said in found.values())
    assert sizes == [1, 3, 4]


# One pane moves by small steps, frame after frame; where it stands, and how far the other is off.
MOVE = """
async ([leader, other]) => {
  const panes = [...document.querySelectorAll(".pane")];
  const room = (pane) => pane.scrollHeight - pane.clientHeight;
  const found = [];
  for (let step = 1; step <= 25; step += 1) {
    panes[leader].scrollTop = step * 4;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    const share = (at) => panes[at].scrollTop / room(panes[at]);
    found.push([panes[leader].scrollTop, Math.abs(share(0) - share(1)) * room(panes[other])]);
  }
  return found;
}
"""


def test_responses_of_different_length_scroll_together_by_their_share(at: Open) -> None:
    page = at("long")
    panes = page.locator(".pane")
    press(page, "l")
    expect(page.locator("#option-linked")).to_have_attribute("aria-pressed", "true")
    rooms = panes.evaluate_all("(all) => all.map((one) => one.scrollHeight - one.clientHeight)")
    assert max(rooms) > 4 * min(rooms) > 400
    for leader, other in ((0, 1), (1, 0)):
        moved: list[tuple[float, float]] = page.evaluate(MOVE, [leader, other])
        assert [at for at, _ in moved] == [4.0 * step for step in range(1, 26)]  # none thrown back
        assert max(off for _, off in moved) <= 1.0  # pixel
    panes.first.focus()
    press(page, "End")
    wait_until(
        page,
        """() => [...document.querySelectorAll(".pane")].every((one) =>
            one.scrollTop >= one.scrollHeight - one.clientHeight - 1)""",
    )
    panes.first.evaluate("(one) => { one.scrollTop = 0 }")
    wait_until(page, "document.querySelectorAll('.pane')[1].scrollTop === 0")
    press(page, "l")
    assert panes.evaluate_all("(all) => all.map((one) => one.scrollHeight - one.clientHeight)") == [
        0,
        0,
    ]


def key_of(page: Page, key: str, code: str, **held: bool) -> None:
    """Press a key of another keyboard than the browser's own."""
    page.evaluate(
        """(init) => document.activeElement.dispatchEvent(
            new KeyboardEvent("keydown", {bubbles: true, cancelable: true, ...init}))""",
        {"key": key, "code": code, **held},
    )


def test_keys_act_by_their_place_on_french_and_cyrillic_keyboards(at: Open) -> None:
    page = at("keyboards")
    chosen = page.locator('.choice[aria-pressed="true"]')
    reason = page.locator('.why .chip[aria-pressed="true"]')
    key_of(page, "é", "Digit2")
    expect(chosen).to_have_text("2A better")
    key_of(page, "1", "Digit1", shiftKey=True)
    expect(reason).to_have_text("clear")
    expect(chosen).to_have_text("2A better")
    key_of(page, "[", "Digit5", modifierAltGraph=True)  # types a bracket, is no 5
    expect(chosen).to_have_text("2A better")
    key_of(page, "@", "Digit2", shiftKey=True)  # an American keyboard
    expect(reason).to_have_text(["clear", "kind"])
    before = page.locator("#prompt-turns").inner_text()
    key_of(page, "ы", "KeyS")  # skip
    expect(page.locator("#prompt-turns")).not_to_have_text(before)
    ranking = at("ranking", "rater2")
    ranking.locator(".grip").first.focus()
    key_of(ranking, '"', "Digit3")
    assert order(ranking) == [["B"], ["C"], ["A"], ["D"]]


def test_screen_readers_hear_what_happens_and_focus_moves_to_the_item(
    at: Open,
) -> None:
    page = at("ranking", "rater")
    expect(page.locator("#heading")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("2")
    expect(page.locator("#spoken")).to_contain_text("place 2 of 4")
    assert page.locator("#spoken").get_attribute("aria-live") == "polite"
    assert page.locator("#status").get_attribute("role") == "status"
    names = page.get_by_role("article").all()
    assert [one.get_attribute("aria-labelledby") for one in names] == [
        f"response-{label}" for label in "ABCD"
    ]


def test_word_differences_join_to_both_texts(
    browser_page: Callable[..., Page],
) -> None:
    page = browser_page("rater")
    page.goto("/projects")
    rng = random.Random(1)
    words = ["wash", "it", " ", "  ", "\n", ",", "é", "手", "洗", "👩‍🔧", "gently", "."]
    pairs = [
        ["".join(rng.choices(words, k=rng.randrange(12))) for _ in range(2)] for _ in range(500)
    ]
    found: list[list[dict[str, str]]] = page.evaluate(
        """async (pairs) => { const {diffWords} = await import("/static/diff.js");
        return pairs.map(([one, two]) => diffWords(one, two)); }""",
        pairs,
    )
    for (one, two), pieces in zip(pairs, found, strict=True):
        assert "".join(p["text"] for p in pieces if p["kind"] != "new") == one
        assert "".join(p["text"] for p in pieces if p["kind"] != "gone") == two
        kinds = [piece["kind"] for piece in pieces]
        assert all(one != two for one, two in pairwise(kinds))
