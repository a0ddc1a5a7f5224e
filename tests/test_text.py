"""Nothing in a text of strangers hides or acts, and plain text is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.text import visible, visible_page

HOSTILE = "a\x1b[31m\u202eb\u2028\ue000\ud800"


def test_hostile_characters_are_spelt_out_in_each_way() -> None:
    assert visible(HOSTILE) == r"a\x1b[31m\u202eb\u2028\ue000\ud800"
    assert visible_page(HOSTILE) == "a⟨U+001B⟩[31m⟨U+202E⟩b⟨U+2028⟩⟨U+E000⟩⟨U+D800⟩"


@pytest.mark.parametrize("plain", ["", "hello 'you'", "é 中文 \\n", "👩🏽 ½"])
def test_plain_text_is_left_alone(plain: str) -> None:
    assert visible(plain) == visible_page(plain) == plain


def test_a_page_keeps_lines_and_joiners_and_a_terminal_gets_one_line() -> None:
    family = "👩\u200d👧\n\tsee"
    assert visible_page(family) == family
    assert visible(family) == "👩\\u200d👧\\n\\tsee"


@given(st.text(st.characters()))
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert visible(text).isprintable()
    assert visible_page(visible_page(text)) == visible_page(text)
