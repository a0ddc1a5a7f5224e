"""The page for everybody: by keyboard or pointer, on a phone, with a screen reader, in the dark."""

import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.serving.conftest import DESKTOP, PHONE, Cast, Server
from tests.serving.rater_world import (
    Place,
    answer,
    compared,
    comparisons,
    go,
    make_place,
    press,
    verdicts,
    wait_for_item,
)

from preftune.store.database import Database
from preftune.store.items import Verdict, of_comparison, of_response
from preftune.store.projects import ProjectSettings
from preftune.types import Comparison, Message, make_prompt, user

Open = Callable[..., Page]
AXE = "axe-core@4.10.3"
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
    "rewrite": Place(new=[of_response(PROMPT, FOUR[0])], settings=ProjectSettings(kind="rewrite")),
}


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

    def open_(name: str, role: str = "rater", **looks: Any) -> Page:
        page = browser_page(role, **looks)
        go(page, places[name])
        return page

    return open_


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, fetched from the npm registry once and kept between sessions."""
    kept = Path(tempfile.gettempdir()) / "preftune-test-axe" / AXE
    source = kept / "package" / "axe.min.js"
    if not source.exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: install Debian's npm, which fetches axe-core for this test"
        kept.mkdir(parents=True, exist_ok=True)
        ran = subprocess.run(
            [npm, "pack", AXE], cwd=kept, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"axe-core cannot be fetched from npm: {ran.stderr[-500:]}"
        packed = kept / ran.stdout.split()[-1]
        subprocess.run(["tar", "-xzf", packed.name], cwd=kept, check=True)
    return source.read_text()


def offences(page: Page, axe: str) -> list[str]:
    """Return what axe finds serious or critical."""
    page.evaluate(axe)
    found: Any = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)])
def test_axe_finds_nothing_serious(at: Open, axe: str, size: tuple[int, int], dark: bool) -> None:
    page = at("ranking", size=size, dark=dark)
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


def sideways(page: Page) -> int:
    found: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return found


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
    for _ in range(12):
        label, place = rng.choice("ABCD"), rng.randrange(4)
        put_by_key(with_keys, label, place)
        drag(with_mouse, label, place)
        assert order(with_keys) == order(with_mouse), (label, place)


def test_a_ranking_counts_once_it_was_touched_and_ties_can_be_made(
    server: Server, places: dict[str, str], at: Open
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
    found = verdicts(server, places["order"])
    taken = [[text[:5] for text in TEXTS].index(text) for text in shown]
    (ranked,) = [
        said[0][1]["ranking"] for said in found.values() if len(said[0][1]["ranking"]) == 3
    ]
    assert ranked == [sorted(taken[:2]), [taken[2]], [taken[3]]]
    sizes = sorted(len(said[0][1]["ranking"]) for said in found.values())
    assert sizes == [1, 3, 4]


def test_responses_scroll_together_when_asked(
    at: Open,
) -> None:
    page = at("ranking", "rater", size=(1000, 800))
    page.locator("#option-linked").click()
    panes = page.locator(".pane")
    tops = "() => [...document.querySelectorAll('.pane')].map((one) => one.scrollTop)"
    panes.evaluate_all("(all) => { for (const one of all) one.style.maxHeight = '12px' }")
    panes.first.evaluate("(one) => { one.scrollTop = 1e6 }")
    page.wait_for_timeout(100)
    assert all(top > 0 for top in page.evaluate(tops))


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
    server: Server, browser_page: Callable[..., Page]
) -> None:
    page = browser_page("rater")
    page.goto(server.url + "/projects")
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
