"""What counts as the same prompt, exactly and nearly."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.prompts.similar import (
    content_key,
    likeness,
    normal,
    overlap,
    runs_of_words,
    shingles,
)
from preftune.types import Message, assistant, make_prompt, user

SYSTEM = Message(role="system", content="be kind")


def test_overlap_is_the_share_of_common_runs_of_three_words() -> None:
    one, other = shingles("a b c d e"), shingles("a b c d f")
    assert one == shingles("a b c") | shingles("b c d") | shingles("c d e")
    assert len(one) == 3
    assert overlap(one, other) == pytest.approx(2 / 4)  # abc, bcd of abc, bcd, cde, cdf
    assert overlap(shingles("a b"), shingles("a b")) == 1.0
    assert overlap(shingles("a b"), shingles("a c")) == 0.0
    assert overlap(shingles(""), shingles("")) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello  there\n", "hello there", True),
        ("ﬁne ½", "FINE 1⁄2", True),  # NFKC: a ligature and a fraction
        ("Straße", "STRASSE", True),
        ("hello there", "hello there.", False),
        ("hello there", "hellothere", False),
    ],
)
def test_content_key_takes_no_notice_of_case_white_space_and_unicode_form(
    one: str, other: str, same: bool
) -> None:
    assert (content_key(make_prompt(user(one))) == content_key(make_prompt(user(other)))) is same


def test_content_key_minds_roles_turns_and_tools() -> None:
    prompts = [
        make_prompt(user("a"), user("b")),
        make_prompt(user("a b")),
        make_prompt(user("a"), assistant("b")),
        make_prompt(SYSTEM, user("a"), user("b")),
        make_prompt(user("a"), user("b"), tools=({"name": "t"},)),
    ]
    assert len({content_key(prompt) for prompt in prompts}) == len(prompts)


@given(st.text())
def test_normal_form_is_the_normal_form_of_itself(text: str) -> None:
    once = normal(text)
    assert " ".join(once.split()) == once
    assert content_key(make_prompt(user(text))) == content_key(make_prompt(user(f" {text}\n")))


def test_a_shared_history_or_system_prompt_makes_no_two_questions_alike() -> None:
    long = " ".join(f"w{n}" for n in range(200))
    history = user(long), assistant(long)
    dryer = likeness(make_prompt(*history, user("and what about the dryer ?")))
    iron = likeness(make_prompt(*history, user("and may i iron it ?")))
    assert overlap(dryer.runs[0], iron.runs[0]) > 0.9
    assert dryer.to(iron) == 0.0
    asked = user("may i wash my red wool socks at forty degrees ?")
    assert likeness(make_prompt(SYSTEM, asked)).to(likeness(make_prompt(asked))) == 0.0
    assert dryer.to(dryer) == 1.0


TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join), max_size=6)


@given(TEXTS)
def test_texts_hashed_together_have_the_runs_they_have_alone(texts: list[str]) -> None:
    runs, starts = runs_of_words(texts)
    spans = pairwise([*starts.tolist(), len(runs)])
    found = [frozenset(runs[begin:end].tolist()) for begin, end in spans]
    assert found == [shingles(text) for text in texts]
    plain = [text.split() for text in texts]
    assert [len(one) for one in found] == [
        len({tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}) for words in plain
    ]
