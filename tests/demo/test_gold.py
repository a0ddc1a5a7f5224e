import random

import pytest

from preftune.demo.gold import gold_tone
from preftune.demo.grammar import mixed_reply, warm_reply

CORE = "yes , your teddy bear can go in the washer . use 40 degrees and gentle mode ."


@pytest.mark.parametrize(
    "text, tone",
    [
        (CORE, 0.0),
        (f"i am so happy to help ! {CORE} i know it means a lot to you .", 2.0),
        (f"{CORE} i know it means a lot to you .", 1.0),
        (
            f"next time look it up . {CORE} i know it means a lot to you . "
            "as you may know , fabrics are all different .",
            -0.4,
        ),
        (
            f"thank you so much for asking ! {CORE} you are taking such good care of it . "
            "we are always here for you !",
            3.0,
        ),
        (f"{CORE} obviously .", -1.0),
        ("", 0.0),
    ],
)
def test_tone_matches_the_examples_worked_by_hand(text: str, tone: float) -> None:
    assert gold_tone(text) == pytest.approx(tone)


def test_second_line_of_a_sort_costs_half_a_point_the_same_or_another() -> None:
    assert gold_tone("happy washing ! happy washing !") == pytest.approx(0.5)
    assert gold_tone("happy washing ! have a wonderful day !") == pytest.approx(0.5)
    assert gold_tone("happy washing ! " * 3) == pytest.approx(0.0)


def test_blunt_lines_in_a_row_are_all_counted() -> None:
    assert gold_tone("obviously . obviously . read the label .") == pytest.approx(-3.0)


def test_each_word_above_fifty_costs_a_twentieth() -> None:
    assert gold_tone("you " * 50) == 0.0
    assert gold_tone("you " * 70) == pytest.approx(-1.0)


def test_part_of_a_warm_line_is_worth_nothing() -> None:
    assert gold_tone("you are taking you are taking") == 0.0


def test_mixed_replies_have_the_mean_tone_of_their_probabilities() -> None:
    # .3 each for opener, reassurance, close; .7 * .35 blunt twice; fillers .25 + .0625, .4 each
    expected = 0.9 - 2 * 0.7 * 0.35 - 0.4 * (0.25 + 0.0625)
    rng = random.Random(0)
    tones = [gold_tone(mixed_reply(CORE, rng)) for _ in range(20_000)]
    assert sum(tones) / len(tones) == pytest.approx(expected, abs=3 * 1.2 / 20_000**0.5)


def test_warm_reply_scores_two_or_three() -> None:
    rng = random.Random(0)
    assert {gold_tone(warm_reply(CORE, rng)) for _ in range(200)} == {2.0, 3.0}
