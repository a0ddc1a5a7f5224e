"""The lead's pages in a real browser: by keyboard, on a phone, and from clicks to training rows."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.serving.browser_world import PHONE, Site, complaints, offences, sideways
from tests.serving.conftest import Cast
from tests.serving.lead_world import Click, fill, judge, lines

from preftune.datasets import read_pairs
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, publish_guideline
from preftune.types import text_of

ITEMS = 20
GUIDELINE = "# Be kind\n\nFacts first."
PATTERN = ((True, 3), (True, 1), (False, 2), (None, 0))  # of the first rater, item after item
BACK = (True, 1)  # what the second rater always says
TAILS = (
    "",
    "/items",
    "/import",
    "/known",
    "/adjudication",
    "/raters",
    "/guideline",
    "/settings",
    "/datasets",
    "/log",
)


@pytest.fixture(scope="module")
def project_settings() -> ProjectSettings:
    return ProjectSettings(raters_per_item=2, reasons=("wrong fact", "unkind"))


@pytest.fixture(scope="module")
def fill_store() -> Callable[[Database, Cast], None]:
    def work(database: Database, cast: Cast) -> None:
        lead, project_id = cast.ids["lead"], cast.project_id
        fill(database, project_id, lead, items=ITEMS)
        database.write(lambda db: publish_guideline(db, project_id, GUIDELINE, base=0, by=lead))
        for number in range(ITEMS):
            good, strength = PATTERN[number % len(PATTERN)]
            why = f"reason {number}" if number % 5 == 0 else ""
            click = Click(who=cast.ids["rater"], good=good, strength=strength, why=why)
            judge(database, project_id, click)
        for _ in range(ITEMS):
            good, strength = BACK
            judge(database, project_id, Click(who=cast.ids["rater2"], good=good, strength=strength))

    return work


@pytest.fixture
def lead(site: Site, browser_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open one of the lead's pages."""

    def open_(tail: str = "", **how: object) -> Page:
        page = browser_page("lead", **how)
        page.goto(f"{site.url}/p/{site.project_id}/lead{tail}")
        return page

    return open_


def test_forty_judgments_become_a_file_that_lost_nothing(
    lead: Callable[..., Page], site: Site, tmp_path: Path
) -> None:
    page = lead("/datasets")
    page.get_by_label("Name").fill("Spring set")
    page.get_by_role("button", name="Freeze").click()
    expect(page.get_by_role("heading", name="Spring set")).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download JSON Lines").click()
    assert waiting.value.suggested_filename.startswith("Spring-set-")
    path = tmp_path / "pairs.jsonl"
    waiting.value.save_as(path)
    found = {pair.provenance.comparison_id: pair for pair in read_pairs(path)}
    # of each four items: agreed 3 and 1, agreed 1 and 1, split, tie and 1
    ahead = {f"c{n}" for n in range(ITEMS) if n % 4 in (0, 1)}
    assert found.keys() == ahead
    raters = {site.cast.ids["rater"], site.cast.ids["rater2"]}
    for number in range(ITEMS):
        if f"c{number}" not in ahead:
            continue
        pair = found[f"c{number}"]
        assert text_of(pair.chosen) == f"good answer {number}"
        assert pair.strength == (2 if number % 4 == 0 else 1)  # median of 3 and 1, of 1 and 1
        assert pair.probability == pytest.approx(2.5 / 3)
        assert set(pair.provenance.raters) == raters
        assert pair.provenance.guideline.startswith("v1 ")
        assert ("reason" in pair.why) == (number % 5 == 0)
        assert pair.provenance.chosen_generator == "model-good"
    page.goto(page.url)
    ties = page.locator("dt", has_text="ties, left out").locator("xpath=following-sibling::dd")
    expect(ties).to_have_text("10")
    page.get_by_role("link", name="Where line 1 comes from").click()
    expect(page.get_by_role("cell", name="voted")).to_have_count(2)


def test_an_item_is_settled_by_keyboard_alone(lead: Callable[..., Page]) -> None:
    page = lead("/adjudication/next")
    heard = complaints(page)
    heading = page.get_by_role("heading", level=1)
    before = heading.inner_text()
    assert "Rater Example" not in page.locator("main").inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("overall")  # nothing was chosen yet
    page.keyboard.press("t")
    expect(page.get_by_label("about equal")).to_be_checked()
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("2")
    page.get_by_label("Why").focus()
    page.keyboard.type("rule 7")
    assert page.get_by_label("A better").is_checked()  # keys do nothing inside a text
    page.get_by_role("button", name="unkind").click()
    expect(page.get_by_label("Why")).to_have_value("rule 7; unkind")
    page.get_by_role("button", name="Settle").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Settled.")).to_be_visible()
    assert heading.inner_text() != before
    assert [line for line in heard if "422" not in line] == []


def test_a_file_is_imported_in_pieces_and_again_without_doubles(
    lead: Callable[..., Page], tmp_path: Path
) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(lines(100, 2300)) + "\n")
    page = lead("/import")
    said = page.locator("#said")
    for words in ("2,300 new items.", "0 new items, 2,300 there already."):
        page.get_by_label("File").set_input_files(path)
        page.get_by_role("button", name="Import").click()
        expect(said).to_have_text(f"Done: {words}", timeout=30_000)
    path.write_text("\n".join([*lines(100, 1500), "{broken"]))
    page.get_by_label("File").set_input_files(path)
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert")).to_contain_text("Line 1501 of many.jsonl")


def test_a_guideline_that_came_too_late_stays_in_its_box(lead: Callable[..., Page]) -> None:
    first, second = lead("/guideline"), lead("/guideline")
    for page, text in ((first, "Be kind and brief."), (second, "Be **bold**.")):
        page.get_by_label("Text (Markdown)").fill(text)
    second.get_by_role("button", name="Preview").click()
    expect(second.locator("#previewed strong")).to_have_text("bold")
    first.get_by_role("button", name="Publish").click()
    expect(first.get_by_text("Version 2 holds from now on.")).to_be_visible()
    second.get_by_role("button", name="Publish").click()
    expect(second.get_by_role("alert")).to_contain_text("version 2 came out while you wrote")
    expect(second.get_by_label("Text (Markdown)")).to_have_value("Be **bold**.")
    first.get_by_role("link", name="what changed").first.click()
    expect(first.locator("ins").first).to_be_visible()


def test_a_rater_is_excluded_and_let_back(lead: Callable[..., Page]) -> None:
    page = lead("/raters")
    page.get_by_role("link", name="Rater2 Example").click()
    expect(page.get_by_role("heading", name="Without this rater")).to_be_visible()
    page.get_by_role("button", name="Exclude").press("Enter")
    expect(page.locator("h1 .tag")).to_have_text("excluded")
    page.wait_for_load_state("load")  # its scripts have run
    page.get_by_role("button", name="Let back").press("Enter")
    expect(page.locator("h1 .tag")).to_have_count(0)


def test_an_item_becomes_a_calibration_item(lead: Callable[..., Page]) -> None:
    page = lead("/items?search=c3")
    page.get_by_role("link", name="Question 3").click()
    expect(page.locator("#gold")).to_be_hidden()
    page.get_by_label("Use").select_option("calibration")
    page.get_by_label("A better", exact=False).first.check()
    page.get_by_label("Feedback after a calibration item").fill("It names the label.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("This item is for: calibration.")).to_be_visible()
    page.get_by_role("link", name="Gold and calibration").click()
    expect(page.get_by_role("link", name="Question 3")).to_be_visible()


def test_settings_are_changed_in_their_form(lead: Callable[..., Page]) -> None:
    page = lead("/settings")
    page.get_by_label("Gold share").fill("0.6")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("gold_share")
    page.get_by_label("Gold share").fill("0.2")
    page.get_by_label("Reasons").fill("wrong fact\nunkind\ntoo long")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("These settings hold from now on.")).to_be_visible()
    expect(page.get_by_label("Reasons")).to_have_value("wrong fact\nunkind\ntoo long")


def test_the_log_is_verified_by_a_button(lead: Callable[..., Page]) -> None:
    page = lead("/log")
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#verified")).to_contain_text("events are as they were written")


def test_no_page_scrolls_sideways_or_complains_or_keeps_anybody_out(
    lead: Callable[..., Page], axe: str
) -> None:
    page = lead(size=PHONE)
    heard = complaints(page)
    base = page.url
    tails = itertools.chain(TAILS, ("/adjudication/next",))
    for tail in tails:
        page.goto(base + tail)
        assert sideways(page) <= 0, tail
        assert offences(page, axe) == [], tail
    assert heard == []
