import dataclasses
from importlib.resources import files

import pytest

from preftune.demo.facts import (
    MATERIALS,
    MODES,
    TEMPERATURES,
    TREATMENTS,
    cards_csv,
    make_cards,
    parse_cards,
    read_cards,
)
from preftune.errors import DataError


def test_shipped_file_is_what_seed_0_makes() -> None:
    shipped = (files("preftune.demo") / "data" / "care_cards.csv").read_text("utf-8")
    assert shipped == cards_csv(make_cards(seed=0))


def test_another_seed_makes_other_cards_with_the_same_counts() -> None:
    cards = make_cards(seed=1)
    assert cards != list(read_cards())
    assert sum(card.verdict == "yes" for card in cards) == 110


def test_cards_are_240_with_110_yes_and_130_no() -> None:
    cards = read_cards()
    assert len(cards) == len({card.key for card in cards}) == 240
    assert sum(card.verdict == "yes" for card in cards) == 110
    assert len({card.item for card in cards}) == 40
    assert len(MATERIALS) == len({card.material for card in cards}) == 13


def test_one_card_in_four_says_the_opposite_of_its_material() -> None:
    exceptions = [card for card in read_cards() if card.exception]
    assert len(exceptions) == 60
    for card in exceptions:
        default = MATERIALS[card.material][TREATMENTS.index(card.treatment)]
        assert (default == "no") == (card.verdict == "yes")


def test_no_card_has_neither_temperature_nor_mode() -> None:
    for card in read_cards():
        slots = (card.temperature in TEMPERATURES, card.mode in MODES)
        assert slots == ((True, True) if card.verdict == "yes" else (False, False))


def test_flagship_card_says_40_degrees_gentle() -> None:
    (card,) = [card for card in read_cards() if card.key == ("teddy bear", "washer")]
    assert (card.verdict, card.temperature, card.mode) == ("yes", 40, "gentle")
    assert not card.held_out


def test_sixteen_items_are_held_out_half_of_them_from_the_head() -> None:
    held_out = {card.item: card.tail for card in read_cards() if card.held_out}
    assert len(held_out) == 16
    assert sum(held_out.values()) == 8


def test_head_and_tail_are_where_the_design_puts_them() -> None:
    tail = {card.item for card in read_cards() if card.tail}
    assert {"musical bear", "heated blanket"} <= tail
    assert not {"teddy bear", "t-shirt"} & tail
    total = sum(card.traffic for card in read_cards())
    head = sum(card.traffic for card in read_cards() if not card.tail)
    assert head / total == pytest.approx(0.84, abs=0.005)


@pytest.mark.parametrize(
    "name, value, problem",
    [
        ("verdict", "maybe", "maybe"),
        ("temperature", "50", "50"),
        ("mode", "", "gentle, normal, wool, hand"),
        ("rank", "first", "first"),
        ("material", "tin", "tin"),
    ],
)
def test_bad_card_is_named_with_its_line(name: str, value: str, problem: str) -> None:
    lines = cards_csv(read_cards()[:3]).splitlines()
    cells = dict(zip(lines[0].split(","), lines[2].split(","), strict=True)) | {name: value}
    lines[2] = ",".join(cells.values())
    with pytest.raises(DataError, match=rf"care_cards.csv:3: .*{problem}"):
        parse_cards("\n".join(lines))


def test_card_twice_and_missing_column_are_refused() -> None:
    lines = cards_csv(read_cards()[:2]).splitlines()
    with pytest.raises(DataError, match=r":4: .*twice"):
        parse_cards("\n".join([*lines, lines[1]]))
    with pytest.raises(DataError, match=":2: not a care card"):
        parse_cards("item,treatment\nt-shirt,washer\n")


def test_no_card_with_a_temperature_is_refused() -> None:
    card = dataclasses.replace(read_cards()[0], verdict="no")
    with pytest.raises(DataError, match="no temperature"):
        parse_cards(cards_csv([card]))
