"""Markdown of models, logs and people as a tree of harmless elements.

Three walls stand between such a text and a page. markdown-it writes no HTML that stands in the text
and makes no link or image: their addresses come out as words. nh3 lets only `TAGS` through, without
attributes. And no HTML is sent: the page gets a tree, and builds each element by its name from a
list of its own. A sandboxed frame would need `srcdoc`, which takes HTML and so is refused under
Trusted Types; it could not grow with its text, and screen readers would meet a page in the page.
"""

from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import Any, Union

import nh3
from markdown_it import MarkdownIt

from preftune.errors import DataError

BLOCKS = frozenset({"p", "br", "hr", "blockquote", "ul", "ol", "li", "pre"})
HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
MARKS = frozenset({"strong", "em", "s", "u", "code"})
TABLES = frozenset({"table", "thead", "tbody", "tr", "th", "td"})
TAGS = BLOCKS | HEADINGS | MARKS | TABLES
EMPTY = frozenset({"br", "hr"})
LONGEST = 200_000  # characters; rendering is asked for by raters, again and again
DEEPEST = 20  # blocks in blocks; what is deeper, markdown-it leaves out without a word


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """One element: a tag of `TAGS` and what is in it."""

    tag: str
    start: int | None = None  # of a numbered list that does not begin with 1
    children: list[Union["Element", str]] = field(default_factory=list)


Tree = list[Element | str]


def safe_markdown(text: str) -> Tree:
    """Return Markdown as a tree of elements and words, in the order they are read.

    `**hi** <b>` gives a paragraph of an element `strong` and the words ` <b>`: HTML stays visible.

    Raises:
        DataError: the text is too long, or nested so deep that the renderer would drop some of it.
    """
    if len(text) > LONGEST:
        raise DataError(
            f"Markdown: {len(text):,} characters, more than {LONGEST:,}. Read it as plain text."
        )
    env: dict[str, list[str]] = {"addresses": []}
    tokens = _renderer().parse(text, env)
    if any(token.nesting == 1 and token.level >= DEEPEST - 1 for token in tokens):
        raise DataError(f"Markdown: nested more than {DEEPEST - 1} deep. Read it as plain text.")
    html = nh3.clean(
        _renderer().renderer.render(tokens, _renderer().options, env),
        tags=set(TAGS),
        attributes={"ol": {"start"}},
        link_rel=None,
        strip_comments=True,
    )
    reader = _TreeReader()
    reader.feed(html)
    reader.close()
    return reader.root.children


class _TreeReader(HTMLParser):
    """Turns HTML that nh3 wrote into a tree."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element(tag="")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        start = dict(attrs).get("start") or ""
        element = Element(tag=tag, start=int(start) if start.isdecimal() else None)
        self._open[-1].children.append(element)
        if tag not in EMPTY:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if len(self._open) > 1 and self._open[-1].tag == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


@cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("commonmark", {"html": False, "maxNesting": DEEPEST}).enable(
        ["table", "strikethrough"]
    )
    renderer.validateLink = _any_address  # type: ignore[method-assign]  # no link is made
    renderer.add_render_rule("link_open", _link_open)
    renderer.add_render_rule("link_close", _link_close)
    renderer.add_render_rule("image", _image)
    return renderer


def _any_address(url: str) -> bool:
    """Take every address for a link, so that it comes out as the words of one."""
    return isinstance(url, str)


def _link_open(_self: Any, tokens: Any, at: int, _options: Any, env: Any) -> str:
    env["addresses"].append(str(tokens[at].attrGet("href") or ""))
    return "<u>"


def _link_close(_self: Any, _tokens: Any, _at: int, _options: Any, env: Any) -> str:
    return f"</u> ({nh3.clean_text(env['addresses'].pop())})"


def _image(_self: Any, tokens: Any, at: int, _options: Any, _env: Any) -> str:
    token = tokens[at]
    address = str(token.attrGet("src") or "")
    return f"<em>image: {nh3.clean_text(token.content)}</em> ({nh3.clean_text(address)})"
