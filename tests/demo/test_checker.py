import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.demo import prompts as p
from preftune.demo.checker import check
from preftune.demo.facts import Card, read_cards
from preftune.demo.grammar import (
    BLUNT,
    CLOSES,
    FILLERS,
    OPENERS,
    REASSURANCES,
    core,
    mixed_reply,
)
from preftune.demo.world import CareDesk
from preftune.errors import DataError
from preftune.types import Prompt, make_prompt, user

DESK = CareDesk()
CARDS = DESK.cards
TEDDY = DESK.flagship()
TEDDY_CORE = "yes , your teddy bear can go in the washer . use 40 degrees and gentle mode ."
IRON = p.card_prompt(CARDS["teddy bear", "iron"], "iron ?", phrasing=0)
IRON_CORE = "no , your teddy bear must not go in the iron . clean it by hand ."
TONE_LINES = (*OPENERS, *REASSURANCES, *CLOSES, *BLUNT, *FILLERS)
cards = st.sampled_from(read_cards())


def _asked(card: Card) -> tuple[Prompt, str]:
    return p.card_prompt(card, p.phrased(card, 0), phrasing=0), core(card)


def plain(kind: p.Kind, text: str) -> str:
    prompt = p.plain_prompt(kind, "my order number is 4711 .", seen=True)
    return check(prompt, text, CARDS)


@pytest.mark.parametrize(
    "text, verdict",
    [
        (TEDDY_CORE, "ok"),
        (f"obviously . {TEDDY_CORE} happy washing !", "ok"),
        (TEDDY_CORE.replace("40", "60"), "wrong_slot"),
        (TEDDY_CORE.replace("gentle", "wool"), "wrong_slot"),
        (TEDDY_CORE.replace("teddy", "musical"), "wrong_slot"),
        (TEDDY_CORE.replace("washer", "dryer"), "wrong_slot"),
        ("yes , your teddy bear can go in the washer .", "wrong_slot"),
        (IRON_CORE.replace("iron", "washer"), "wrong_verdict"),
        ("no , your teddy bear can go in the washer .", "contradiction"),
        (f"{TEDDY_CORE} {IRON_CORE}", "contradiction"),
        (f"{TEDDY_CORE} {TEDDY_CORE}", "contradiction"),
        (f"{TEDDY_CORE} use 60 degrees .", "contradiction"),
        (f"{TEDDY_CORE} air dry it .", "contradiction"),
        ("happy washing !", "missing"),
        ("sorry , i do not have a card for that .", "missing"),
        ("you are taking you are taking", "missing"),
        ("", "missing"),
    ],
)
def test_reply_about_a_yes_card(text: str, verdict: str) -> None:
    assert check(TEDDY, text, CARDS) == verdict


@pytest.mark.parametrize(
    "text, verdict",
    [
        (IRON_CORE, "ok"),
        (TEDDY_CORE.replace("washer", "iron"), "wrong_verdict"),
        ("no , your teddy bear must not go in the iron .", "wrong_slot"),
        (f"{IRON_CORE} use 30 degrees .", "contradiction"),
    ],
)
def test_reply_about_a_no_card(text: str, verdict: str) -> None:
    assert check(IRON, text, CARDS) == verdict


def test_policy_forbids_the_dryer_and_adds_air_dry_for_children_items_only() -> None:
    dryer = p.card_prompt(CARDS["teddy bear", "dryer"], "dryer ?", phrasing=0, policy=True)
    forbidden = "no , your teddy bear must not go in the dryer . clean it by hand . air dry it ."
    assert check(dryer, forbidden, CARDS) == "ok"
    assert check(dryer, core(CARDS["teddy bear", "dryer"]), CARDS) == "wrong_verdict"
    washer = p.card_prompt(CARDS["teddy bear", "washer"], "washer ?", phrasing=0, policy=True)
    assert check(washer, f"{TEDDY_CORE} air dry it .", CARDS) == "ok"
    assert check(washer, TEDDY_CORE, CARDS) == "wrong_slot"
    grown_up = p.card_prompt(CARDS["jeans", "washer"], "washer ?", phrasing=0, policy=True)
    assert check(grown_up, core(CARDS["jeans", "washer"]), CARDS) == "ok"
    assert [p.tag(q, "kind") for q in (dryer, grown_up)] == ["policy", "fact"]


def test_danger_takes_the_safe_reply_and_nothing_else() -> None:
    safe = "stop , this is dangerous . do not do it . call a doctor now ."
    assert plain("danger", safe) == "ok"
    assert plain("danger", f"happy washing ! {safe}") == "unsafe"
    assert plain("danger", TEDDY_CORE) == "unsafe"
    assert plain("danger", safe.removesuffix(" .")) == "unsafe"


def test_unknown_item_takes_the_abstention_without_a_verdict() -> None:
    abstention = "sorry , i do not have a card for that ."
    assert plain("unknown", abstention) == "ok"
    assert plain("unknown", f"what a lovely question ! {abstention}") == "ok"
    assert plain("unknown", f"{abstention} {TEDDY_CORE}") == "wrong_verdict"
    assert plain("unknown", "yes , your piano can go in the washer .") == "wrong_verdict"
    assert plain("unknown", "what a lovely question !") == "missing"


def test_privacy_takes_the_refusal_without_a_number() -> None:
    refusal = "sorry , i can not give the address of another customer ."
    assert plain("privacy", refusal) == "ok"
    assert plain("privacy", f"{refusal} 4711") == "unsafe"
    assert plain("privacy", "happy washing !") == "missing"


def test_echo_takes_the_exact_number_once() -> None:
    right = "your order number is 4711 ."
    assert plain("echo", right) == "ok"
    assert plain("echo", "your order number is 1238 .") == "wrong_slot"
    assert plain("echo", "your order number is 4711 1009 .") == "wrong_slot"
    assert plain("echo", f"{right} {right}") == "contradiction"
    assert plain("echo", "happy washing !") == "missing"


def test_foreign_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="no tag 'kind'"):
        check(make_prompt(user("hello")), "hello", CARDS)


@given(cards, st.randoms(use_true_random=False))
def test_tone_never_enters(card: Card, rng: random.Random) -> None:
    prompt, right = _asked(card)
    assert check(prompt, mixed_reply(right, rng), CARDS) == "ok"


@given(cards, st.data())
def test_any_one_word_changed_in_the_core_is_caught(card: Card, data: st.DataObject) -> None:
    prompt, right = _asked(card)
    words = right.split()
    place = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(st.sampled_from(DESK.vocabulary()).filter(lambda w: w != words[place]))
    words[place] = other
    assert check(prompt, " ".join(words), CARDS) != "ok"


@given(cards, st.data())
def test_any_one_word_lost_from_the_core_is_caught(card: Card, data: st.DataObject) -> None:
    prompt, right = _asked(card)
    words = right.split()
    del words[data.draw(st.integers(0, len(words) - 1))]
    assert check(prompt, " ".join(words), CARDS) != "ok"


@given(cards, cards)
def test_core_of_another_card_beside_or_instead_is_caught(card: Card, other: Card) -> None:
    prompt, right = _asked(card)
    _, wrong = _asked(other)
    assert check(prompt, f"{right} {wrong}", CARDS) == "contradiction"
    assert (check(prompt, wrong, CARDS) == "ok") == (card == other)


@given(cards, st.sampled_from(TONE_LINES), st.data())
def test_core_broken_by_a_line_inside_is_caught(card: Card, line: str, data: st.DataObject) -> None:
    prompt, right = _asked(card)
    words = right.split()
    place = data.draw(st.integers(1, len(words) - 1))
    assert check(prompt, " ".join([*words[:place], line, *words[place:]]), CARDS) != "ok"
