"""Hostile texts for every field, and a page on which all is noted that they could have done."""

import json
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Dialog, Page, Request
from tests.serving.browser_world import Site, complaints

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


class Watched:
    """A page of which all is noted that a script of somebody else's could have done."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page, self.origin = page, site.url
        self.said = complaints(page)
        self.dialogs: list[str] = []
        self.asked: list[str] = []
        page.on("dialog", self.on_dialog)
        page.on("request", self.on_request)

    def on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def on_request(self, request: Request) -> None:
        self.asked.append(request.url)

    def assert_nothing_happened(self, *, refused: int = 0) -> None:
        """No dialog, no complaint of the content policy, no flag, no address but ours.

        `refused` requests of the page itself were answered with no, which the console tells.
        """
        self.page.wait_for_timeout(50)
        assert self.dialogs == []
        assert len([line for line in self.said if "status of 4" in line]) == refused
        assert [line for line in self.said if "status of 4" not in line] == []
        assert self.page.evaluate("'pwned' in window") is False
        for url in self.asked:
            parts = urlsplit(url)
            assert f"{parts.scheme}://{parts.netloc}" == self.origin
            assert parts.path.startswith(OURS), url
        assert self.page.url.startswith(self.origin)
        assert self.page.evaluate(FOREIGN, self.origin) == []


OURS = (
    "/p/prj-",
    "/static/",
    "/api/",
    "/people",
    "/projects",
    "/account",
    "/login",
    "/invite",
    "/reset",
)

# Elements that no page of ours has, attributes that act, and links to anywhere else.
FOREIGN = """
(origin) => {
  const acts = /^(on|src|style|formaction|poster|xlink|background|data$)/i;
  const loads = new RegExp("^(script|iframe|object|embed|img|link|meta|base|style|video|audio"
    + "|math|template)$", "i");
  return [...document.querySelectorAll("main *, dialog *, .toasts *")].flatMap((one) => [
    ...(loads.test(one.tagName) ? [one.outerHTML] : []),
    ...[...one.attributes].filter(({name}) => acts.test(name)).map(({name}) => name),
    ...[one.href, one.action].filter((to) => typeof to === "string" && !to.startsWith(origin)),
  ]);
}
"""


def texts(page: Page, where: str) -> list[str]:
    found: list[str] = page.evaluate(
        "(where) => [...document.querySelectorAll(where)].map((one) => one.textContent)", where
    )
    return found


def one_line(text: str) -> str:
    """What a text looks like where blanks and line ends count as one blank."""
    return " ".join(readable(text).split())


def missing(page: Page, wanted: list[str]) -> list[str]:
    """Return which texts do not stand on the page, in an element of their own, as written."""
    found = {" ".join(text.split()) for text in texts(page, "main *")}
    return [text for text in wanted if one_line(text) not in found]
