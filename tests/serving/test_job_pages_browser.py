"""The pages of jobs in a real browser: curves that grow, buttons, keys, hostile texts, a phone."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.serving.browser_world import (
    PHONE,
    Site,
    complaints,
    offences,
    open_page,
    served,
    sideways,
    wait_until,
)
from tests.serving.conftest import ROLES, make_cast, sign_in
from tests.serving.job_world import STEPS, Hand, add_job, add_rows, make_server
from tests.serving.xss_world import PAYLOADS, Watched, missing, one_line

from preftune.store.api_keys import key_of
from preftune.store.database import Database
from preftune.store.jobs import job as stored_job
from preftune.wire.job import Event

SHORT = [text for text in PAYLOADS if 0 < len(text.strip()) <= 60][:24]

OUTSIDE = """[...document.querySelectorAll('.card td, .card th')].some(cell =>
  cell.getBoundingClientRect().right > cell.closest('.card').getBoundingClientRect().right)"""
LIKE_OTHERS = ("/jobs", "/models", "/files")  # made of what the other pages are made of


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A server, and what is in its project."""

    site: Site
    filled: "Filled"

    @property
    def hand(self) -> Hand:
        return self.filled.hand

    @property
    def base(self) -> str:
        return f"/p/{self.site.project_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """Ids of jobs of every kind."""

    hand: Hand  # has the one that trains
    done: str
    model: str  # that it made
    failed: str
    hostile: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Database(tmp_path_factory.mktemp("jobs") / "tuning.db") as database:
        cast = make_cast(database)
        tokens = {role: sign_in(database, cast.ids[role]) for role in ROLES}
        made = fill(database, cast.project_id)
        with served(database, cast, tokens, app=make_server(database)) as site:
            yield World(site=site, filled=made)


def fill(database: Database, project_id: str) -> Filled:
    """Put jobs of every kind into a project, the one that trains last."""
    hostile = add_rows(database, project_id, f"{SHORT[0]}.jsonl")
    texts = {
        "suffix": SHORT[1],
        "model": SHORT[2],
        "metadata": dict(zip(SHORT, SHORT, strict=True)),
    }
    add_job(database, project_id, hostile.id, **texts)
    bad = Hand.take(database)
    bad.tell(
        *(
            Event(key=f"said-{n}", message=text, created_s=time.time())
            for n, text in enumerate(PAYLOADS)
        )
    )
    bad.step(1, odd=1.0)
    bad.checkpoint(1)
    rule = {"name": SHORT[3], "outcome": SHORT[4], "sentence": SHORT[5]}
    bad.finish(2, verdict={"verdict": SHORT[6], "results": [rule]})

    add_rows(database, project_id, "x" * 400 + ".jsonl")
    file = add_rows(database, project_id, "pairs.jsonl")
    add_job(database, project_id, file.id)  # no suffix: named by what it does
    failed = Hand.take(database)
    problem = {"code": "invalid_training_file", "message": f"Example 2: {SHORT[7]}"}
    failed.finish(0, "failed", problem=problem)

    add_job(database, project_id, file.id, suffix="done", metadata={"team": "care"})
    done = Hand.take(database)
    done.step(1, STEPS)
    for step in (10, 20, 30):
        done.checkpoint(step)
    rules = [
        {"name": "facts kept", "outcome": "pass", "sentence": "Lost 0 of 60."},
        {"name": "length", "outcome": "can't tell", "sentence": "Too few to tell."},
    ]
    verdict = {"suite": "care", "verdict": "can't tell", "results": rules}
    result = add_rows(database, project_id, "step_metrics.csv", "step,train_loss\n")
    ended = done.finish(STEPS, verdict=verdict, result_files=(result.id,))

    add_job(database, project_id, file.id, suffix="live")
    hand = Hand.take(database)
    hand.step(1, 3)
    assert ended.fine_tuned_model is not None
    return Filled(
        hand=hand,
        done=done.job.id,
        model=ended.fine_tuned_model,
        failed=failed.job.id,
        hostile=bad.job.id,
    )


@pytest.fixture
def lead(world: World, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page of the project as its lead."""
    opened: list[Page] = []

    def open_(tail: str = "", **looks: object) -> Page:
        page = open_page(browser, world.site, "lead", **looks)  # type: ignore[arg-type]  # size, dark
        opened.append(page)
        if tail:
            page.goto(world.base + tail)
        return page

    yield open_
    for page in opened:
        page.context.close()


def points(page: Page, title: str) -> int:
    """Return how many steps the first curve of a chart is drawn through."""
    found: int = page.evaluate(
        """(title) => {
          const all = [...document.querySelectorAll("figure")];
          const figure = all.find((one) => one.querySelector("h3").innerText.startsWith(title));
          const path = figure?.querySelector("path:not(.raw)")?.getAttribute("d") ?? "";
          return path.split(/[ML]/).length - 1;
        }""",
        title,
    )
    return found


def test_curves_grow_while_the_job_trains_and_buttons_stop_it(
    lead: Callable[..., Page], world: World
) -> None:
    page = lead(f"/jobs/{world.hand.job.id}")
    heard = complaints(page)
    wait_until(page, "document.querySelectorAll('figure path').length > 0")
    assert points(page, "Loss") == 3
    assert page.locator("#checkpoints li").count() == 0
    world.hand.step(4, 12)
    name = world.hand.checkpoint(12)
    expect(page.get_by_text(f"step 12 of {STEPS}")).to_be_visible()
    expect(page.locator("#checkpoints")).to_contain_text(name)
    page.wait_for_timeout(100)  # a chart is drawn with the next frame
    assert points(page, "Loss") == 12

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("pausing after a checkpoint")).to_be_visible()
    world.hand.finish(12, "paused")
    resume = page.get_by_role("button", name="Resume")
    expect(resume).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    resume.click()
    expect(page.locator("h1 + p .tag")).to_have_text("queued")
    hand = Hand.take(world.site.database)
    hand.step(13, 14)
    expect(page.get_by_text(f"step 14 of {STEPS}")).to_be_visible()
    assert points(page, "Loss") == 14
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1 + p .tag")).to_have_text("cancelled")
    with world.site.reading() as db:
        assert stored_job(db, world.site.project_id, hand.job.id).state == "cancelled"
    assert page.locator("#events li", has_text="The job was resumed").count() == 1
    assert heard == []


def test_a_curve_is_read_by_pointer_and_by_keyboard(
    lead: Callable[..., Page], world: World
) -> None:
    page = lead(f"/jobs/{world.filled.done}")
    curve = page.get_by_role("slider", name="Loss, step by step")
    expect(curve).to_have_attribute(
        "aria-valuetext", f"step {STEPS}: training 0.2113, validation, every row 0.2313"
    )
    curve.focus()
    page.keyboard.press("Home")
    expect(curve).to_have_attribute(
        "aria-valuetext", "step 1: training 0.6931, validation, every row –"
    )
    page.keyboard.press("ArrowRight")
    expect(curve).to_have_attribute("aria-valuenow", "2")
    page.keyboard.press("Escape")
    expect(curve).to_have_attribute("aria-valuenow", str(STEPS))
    box = curve.bounding_box()
    assert box is not None
    curve.hover(position={"x": box["width"] - 13, "y": 60})
    expect(page.get_by_text(f"step {STEPS}", exact=True)).to_be_visible()

    drawn = "document.querySelector('figure svg.curve path:not(.raw)').getAttribute('d')"
    before = page.evaluate(drawn)
    page.locator("#smoothing").fill("0.9")
    wait_until(page, f"{drawn} !== {before!r}")
    assert page.locator("figure").first.locator("path.raw").count() == 1
    page.locator("figure").first.get_by_role("button", name="log").click()
    wait_until(page, "document.querySelector('figure .chip').ariaPressed === 'true'")
    page.locator("figure").first.get_by_role("button", name="training").click()
    expect(page.locator("figure").first.locator("path.raw")).to_have_count(0)
    margin = page.locator("figure", has=page.get_by_role("heading", name="Reward margin"))
    expect(margin.get_by_role("button", name="log")).to_be_disabled()  # it begins at 0


def test_the_list_leads_to_a_job_and_its_model_which_answers(
    lead: Callable[..., Page], world: World
) -> None:
    page = lead("/jobs")
    page.get_by_role("link", name="done").click()
    expect(page.get_by_text("can't tell").first).to_be_visible()
    expect(page.get_by_text("Lost 0 of 60.")).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Result file").click()
    assert waiting.value.suggested_filename == "step_metrics.csv"
    page.get_by_role("link", name=world.filled.model).first.click()
    expect(page.get_by_role("heading", name="Tuned model")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("can i wash it")
    page.get_by_role("button", name="Ask").click()
    said = page.locator("[data-said]")
    expect(said).to_have_text(["can i wash it", "can i wash it"])
    page.goto(f"{world.base}/jobs/{world.filled.failed}")
    expect(page.get_by_role("alert")).to_contain_text("upload the file again")


def test_jobs_are_compared(lead: Callable[..., Page], world: World) -> None:
    page = lead("/runs")
    wait_until(page, "document.querySelectorAll('figure path').length > 0")
    page.get_by_label(f"done {world.filled.done[-6:]}").check()
    page.get_by_role("button", name="Show their curves").click()
    expect(page.locator("figure").first).to_contain_text(f"done {world.filled.done[-6:]}")


def test_a_key_is_shown_once_and_works_until_revoked(
    lead: Callable[..., Page], world: World
) -> None:
    page = lead("/keys")
    page.get_by_label("What it is for").fill("nightly")
    page.get_by_role("button", name="Make the key").click()
    box = page.get_by_label("It is shown this once")
    expect(box).to_have_value(re.compile("^pft_"))
    secret = box.input_value()
    with world.site.reading() as db:
        assert key_of(db, secret, now_s=time.time()) is not None
    page.get_by_role("link", name="Done").click()
    expect(page.get_by_role("row", name="nightly")).to_be_visible()
    assert secret not in page.content()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke nightly").click()
    expect(page.get_by_text("The key is revoked.")).to_be_visible()
    with world.site.reading() as db:
        assert key_of(db, secret, now_s=time.time()) is None


def test_nothing_that_users_or_models_wrote_acts(lead: Callable[..., Page], world: World) -> None:
    page = lead()
    seen = Watched(page, world.site)
    page.goto(f"{world.base}/jobs/{world.filled.hostile}")
    wait_until(page, "document.querySelectorAll('#events li').length > 5")
    wait_until(page, "document.querySelectorAll('figure path, figure circle').length > 0")
    assert missing(page, PAYLOADS) == []  # each an event
    assert missing(page, [*SHORT[3:7], *SHORT]) == []
    seen.assert_nothing_happened()
    for tail in ("/jobs", "/files", "/models", "/runs", f"/jobs/{world.filled.failed}"):
        page.goto(world.base + tail)
        page.wait_for_timeout(100)
        seen.assert_nothing_happened()
    page.goto(f"{world.base}/models")
    page.get_by_role("link", name=one_line(SHORT[1])).first.click()
    expect(page.get_by_role("heading", name="Where it comes from")).to_be_visible()
    seen.assert_nothing_happened()
    for text in SHORT[:4]:
        page.get_by_label("Prompt", exact=True).fill(text)
        page.get_by_role("button", name="Ask").click()
        wait_until(page, "document.querySelector('#try [type=submit]').disabled === false")
        assert one_line(page.locator("[data-said]").first.inner_text()) == one_line(text)
        seen.assert_nothing_happened()


@pytest.mark.parametrize("size", [None, PHONE])
def test_pages_fit_their_screen_and_can_be_used_by_all(
    lead: Callable[..., Page], world: World, axe: str, size: tuple[int, int] | None
) -> None:
    page = lead("/jobs", **({"size": size} if size else {}))
    heard = complaints(page)
    for tail in (
        "/jobs",
        f"/jobs/{world.filled.done}",
        f"/jobs/{world.filled.failed}",
        "/runs",
        "/models",
        f"/models/{world.filled.model}",
        "/files",
        "/keys",
    ):
        page.goto(world.base + tail)
        page.wait_for_timeout(150)
        assert sideways(page) <= 0, tail
        assert not page.evaluate(OUTSIDE), tail
        if size is None and tail not in LIKE_OTHERS:
            assert offences(page, axe) == [], tail
    page.goto(f"{world.site.url}/api")
    assert sideways(page) <= 0
    assert not page.evaluate(OUTSIDE)
    assert "`" not in page.locator("main").inner_text()
    assert heard == []


def test_a_phone_shows_curves_as_wide_as_its_screen(
    lead: Callable[..., Page], world: World
) -> None:
    page = lead(f"/jobs/{world.filled.done}", size=PHONE)
    wait_until(page, "document.querySelectorAll('figure path').length > 0")
    wide = page.evaluate("document.querySelector('svg.curve').getBoundingClientRect().width")
    assert 300 < wide <= PHONE[0]
    tall = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('svg.curve text')).fontSize)"
    )
    assert tall >= 11
