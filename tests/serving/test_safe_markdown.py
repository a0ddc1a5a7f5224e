"""Markdown becomes a tree of harmless elements, and nothing of its words gets lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.serving.safe_markdown import DEEPEST, LONGEST, TAGS, Element, Tree, safe_markdown

LINES = Path(__file__).with_name("xss_payloads.txt").read_text().splitlines()
PAYLOADS: list[str] = [json.loads(line) for line in LINES]


def elements(tree: Tree) -> Iterator[Element]:
    for child in tree:
        if isinstance(child, Element):
            yield child
            yield from elements(child.children)


def words(tree: Tree) -> str:
    return "".join(c if isinstance(c, str) else words(c.children) for c in tree)


def only(tree: Tree) -> Element:
    found = [child for child in tree if isinstance(child, Element)]
    assert len(found) == 1
    return found[0]


def test_emphasis_becomes_elements() -> None:
    paragraph = only(safe_markdown("say **yes** *now*"))
    assert paragraph == Element(
        tag="p",
        children=[
            "say ",
            Element(tag="strong", children=["yes"]),
            " ",
            Element(tag="em", children=["now"]),
        ],
    )


def test_html_stays_words() -> None:
    tree = safe_markdown("<b onclick=alert(1)>hi</b>")
    assert words(tree).strip() == "<b onclick=alert(1)>hi</b>"
    assert {element.tag for element in elements(tree)} == {"p"}


def test_a_link_is_no_link_and_its_address_can_be_read() -> None:
    tree = safe_markdown("[read me](javascript:alert(1))")
    assert words(tree).strip() == "read me (javascript:alert(1))"
    assert {element.tag for element in elements(tree)} == {"p", "u"}


def test_an_image_is_words() -> None:
    tree = safe_markdown("![a cat](https://elsewhere.example/cat.png)")
    assert words(tree).strip() == "image: a cat (https://elsewhere.example/cat.png)"
    assert {element.tag for element in elements(tree)} == {"p", "em"}


def test_a_numbered_list_keeps_its_first_number() -> None:
    assert only(safe_markdown("3. third\n4. fourth")).start == 3
    assert only(safe_markdown("1. first")).start is None


def test_a_table_and_code_keep_their_words() -> None:
    tree = safe_markdown("| a | b |\n|---|---|\n| 1 | <i> |\n\n```html\n<p>&amp;\n```\n")
    assert {"table", "tr", "td", "pre", "code"} <= {element.tag for element in elements(tree)}
    assert "<i>" in words(tree)
    assert "<p>&amp;" in words(tree)


def test_a_text_that_is_too_long_is_refused() -> None:
    safe_markdown("a" * LONGEST)
    with pytest.raises(DataError, match="plain text"):
        safe_markdown("a" * (LONGEST + 1))


def test_nesting_is_refused_before_words_get_lost() -> None:
    assert words(safe_markdown("> " * (DEEPEST - 2) + "deep")).strip() == "deep"
    for depth in (DEEPEST - 1, DEEPEST, 5000):
        with pytest.raises(DataError, match="plain text"):
            safe_markdown("> " * depth + "deep")


@pytest.mark.parametrize("text", ["*a " * 20_000, "[" * 20_000, "`" * 20_000, "_ *" * 20_000])
def test_hostile_repetition_does_not_take_long(text: str) -> None:
    safe_markdown(text)  # a renderer that backtracks would not come back


def test_there_are_at_least_300_payloads_and_none_twice() -> None:
    assert len(PAYLOADS) == len(set(PAYLOADS)) >= 300


def test_payloads_give_harmless_elements_alone() -> None:
    for payload in PAYLOADS:
        assert {element.tag for element in elements(safe_markdown(payload))} <= TAGS


@given(st.text())
def test_any_text_gives_harmless_elements_alone(text: str) -> None:
    assert {element.tag for element in elements(safe_markdown(text))} <= TAGS


@given(st.lists(st.text("abcdefgh", min_size=1), min_size=1))
def test_plain_words_come_out_as_they_went_in(found: list[str]) -> None:
    assert words(safe_markdown(" ".join(found))).split() == found
