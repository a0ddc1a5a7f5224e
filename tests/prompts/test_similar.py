"""What counts as the same prompt, and that the index agrees with comparing everything."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import SettingsError
from preftune.prompts.similar import (
    Likeness,
    NearIndex,
    bands_and_rows,
    content_key,
    likeness,
    normal,
    overlap,
    shingles,
)
from preftune.types import Message, Prompt, assistant, make_prompt, user

SYSTEM = Message(role="system", content="be kind")


def test_overlap_is_the_share_of_common_runs_of_three_words() -> None:
    one, other = shingles("a b c d e"), shingles("a b c d f")
    assert one == {"a b c", "b c d", "c d e"}
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
    assert overlap(dryer.whole, iron.whole) > 0.9
    assert dryer.to(iron) == 0.0
    asked = user("may i wash my red wool socks at forty degrees ?")
    assert likeness(make_prompt(SYSTEM, asked)).to(likeness(make_prompt(asked))) == 0.0
    assert dryer.to(dryer) == 1.0


def variants(rng: random.Random, n: int) -> list[Prompt]:
    """Prompts of 20 words, each with a few words changed: likenesses all over 0..1."""
    found: list[Prompt] = []
    for _ in range(n):
        if found and rng.random() < 0.8:
            words = rng.choice(found).messages[0].content.split()
            for _ in range(rng.randrange(1, 5)):
                words[rng.randrange(20)] = f"w{rng.randrange(999)}"
        else:
            words = [f"w{rng.randrange(999)}" for _ in range(20)]
        found.append(make_prompt(user(" ".join(words))))
    return found


@pytest.mark.parametrize("near", [0.5, 0.8, 1.0])
def test_index_is_never_wrong_and_finds_what_is_near(near: float) -> None:
    index, added, missed, near_ones = NearIndex(near), list[Likeness](), 0, 0
    for prompt in variants(random.Random(0), 300):
        one = likeness(prompt)
        best = max(map(one.to, added), default=0.0)
        found = index.nearest_or_add(prompt)
        near_ones += best >= near
        if found is None:
            missed += best >= near
            added.append(one)
        else:
            assert found[1] == one.to(likeness(found[0])) >= near
    assert missed <= 0.01 * near_ones
    assert near_ones > 10 or near == 1.0


@pytest.mark.parametrize("near", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_99_of_100_at_the_threshold(near: float) -> None:
    bands, rows = bands_and_rows(near)
    assert bands * rows <= 128
    assert bands >= 2
    assert 1 - (1 - near**rows) ** bands >= 0.99


@pytest.mark.parametrize("near", [0.0, -0.1, 1.1])
def test_threshold_out_of_range_is_an_error(near: float) -> None:
    with pytest.raises(SettingsError, match="above 0 and at most 1"):
        NearIndex(near)
