"""More than 300 hostile texts in every field: nothing runs, nothing is fetched, all can be read."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Dialog, Page, Request, expect
from tests.serving.conftest import Cast, Server, complaints
from tests.serving.rater_world import label_url, wait_for_item

from preftune.serving.safe_markdown import TAGS
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.projects import ProjectSettings, publish_guideline
from preftune.types import Comparison, Message, Response, ToolCall, make_prompt, user

LINES = Path(__file__).with_name("xss_payloads.txt").read_text().splitlines()
PAYLOADS: list[str] = [json.loads(line) for line in LINES]
NAME = PAYLOADS[0]
HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def readable(text: str) -> str:
    """What stands on the page for a text: hidden characters spelt out; an oracle of our own."""
    kept = "\n\t\u200c\u200d"
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in HIDDEN and c not in kept else c
        for c in text
    )


def turn(text: str) -> Message:
    call = ToolCall(name=text, arguments=text)
    return Message(role="assistant", content=text, tool_calls=(call,))


def hostile() -> Comparison:
    """Return a comparison that has every payload in every field, one turn each."""
    system = Message(role="system", content="\n".join(PAYLOADS))
    tools = tuple(Message(role="tool", content=text, name=text) for text in PAYLOADS)
    prompt = make_prompt(
        system, *map(user, PAYLOADS), *tools, tools=tuple({"name": text} for text in PAYLOADS)
    )
    responses = tuple(
        Response(id=f"r{n}", prompt_id=prompt.id, messages=tuple(map(turn, texts)))
        for n, texts in enumerate((PAYLOADS, PAYLOADS[::-1]))
    )
    return Comparison(id=PAYLOADS[0], prompt=prompt, responses=responses)


@pytest.fixture(scope="module")
def project_settings() -> ProjectSettings:
    return ProjectSettings(dimensions=(NAME, PAYLOADS[3]), reasons=tuple(PAYLOADS))


@pytest.fixture(scope="module")
def fill_store() -> Callable[[Database, Cast], None]:
    def fill(database: Database, cast: Cast) -> None:
        lead, place = cast.ids["lead"], cast.project_id
        new = [of_comparison(hostile())]
        database.write(lambda db: add_items(db, place, new, by=lead))
        text = "\n\n".join(PAYLOADS)
        database.write(lambda db: publish_guideline(db, place, text, base=0, by=lead))

    return fill


class Watched:
    """A page of which all is noted that a script of somebody else's could have done."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.origin = page, server.url
        self.said = complaints(page)
        self.dialogs: list[str] = []
        self.asked: list[str] = []
        page.on("dialog", self.on_dialog)
        page.on("request", self.on_request)
        page.goto(label_url(server.project_id))
        wait_for_item(page, 1)

    def on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def on_request(self, request: Request) -> None:
        self.asked.append(request.url)

    def assert_nothing_happened(self) -> None:
        """No dialog, no complaint of the content policy, no flag, no address but ours."""
        self.page.wait_for_timeout(300)
        assert self.dialogs == []
        assert self.said == []
        assert self.page.evaluate("'pwned' in window") is False
        for url in self.asked:
            parts = urlsplit(url)
            assert f"{parts.scheme}://{parts.netloc}" == self.origin
            assert parts.path.startswith(("/p/prj-", "/static/"))
        assert self.page.url.startswith(f"{self.origin}/p/")
        assert self.page.evaluate(FOREIGN) == []


# Elements in foreign texts that we did not make, and attributes that we did not give.
FOREIGN = """
() => {
  const acts = /^(on|src|style|formaction|action|poster|href|xlink|background|data$)/i;
  const loads = new RegExp("^(script|iframe|object|embed|img|svg|link|meta|base|style|video|audio"
    + "|math|template|form|input|a)$", "i");
  return [...document.querySelectorAll("main *, dialog *")].flatMap((one) => [
    ...(loads.test(one.tagName) ? [one.tagName] : []),
    ...[...one.attributes].filter(({name}) => acts.test(name)).map(({name}) => name),
  ]);
}
"""


@pytest.fixture
def watched(server: Server, browser_page: Callable[..., Page]) -> Watched:
    return Watched(browser_page("rater"), server)


def texts(page: Page, where: str) -> list[str]:
    found: list[str] = page.evaluate(
        "(where) => [...document.querySelectorAll(where)].map((one) => one.textContent)", where
    )
    return found


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


def test_guideline_names_and_reasons_run_nothing(watched: Watched, server: Server) -> None:
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
