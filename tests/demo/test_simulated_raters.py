import math
import random
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from preftune.demo.grammar import mixed_reply
from preftune.demo.raters import (
    ADVERSARY,
    CAREFUL,
    LENGTH_LOVER,
    PANEL,
    RATERS,
    SimulatedRater,
    draw_grade,
    draw_ranking,
    label,
    latent_difference,
    quality,
    show,
)
from preftune.demo.sabotage import LENGTH_JUDGES
from preftune.demo.world import CareDesk
from preftune.types import Comparison, Prompt, Response, assistant, content_id, text_of

DESK = CareDesk()
CORE = "yes , your teddy bear can go in the washer . use 40 degrees and gentle mode ."
WRONG = "no , your teddy bear must not go in the washer . clean it by hand ."


def response(prompt: Prompt, text: str, name: str) -> Response:
    return Response(id=name, prompt_id=prompt.id, messages=(assistant(text),), origin="sampled")


def comparison(*texts: str) -> Comparison:
    prompt = DESK.flagship()
    shown = tuple(response(prompt, text, f"r{n}") for n, text in enumerate(texts))
    return Comparison(id=content_id("c", texts), prompt=prompt, responses=shown)


@cache
def grammar_pairs(n: int) -> list[Comparison]:
    """Two replies of the desk's grammar to each prompt."""
    rng = random.Random(11)
    pairs = []
    for prompt in DESK.label_prompts(n):
        two = [response(prompt, DESK.reply(prompt, rng), f"{prompt.id}-{k}") for k in range(2)]
        pairs.append(show(prompt, two))
    return pairs


@pytest.mark.parametrize("rater", [*RATERS, LENGTH_JUDGES[0]], ids=lambda rater: rater.id)
def test_rater_has_the_stated_accuracy(rater: SimulatedRater) -> None:
    pairs = grammar_pairs(2000)
    right = []
    for pair, judgment in zip(pairs, label(pairs, [rater], DESK.cards), strict=True):
        a, b = (quality(pair.prompt, text_of(r.messages), DESK.cards) for r in pair.responses)
        if judgment.grade in (None, 4) or abs(a - b) < 1e-9:
            continue
        right.append((judgment.grade < 4) == (a > b))
    standard_error = math.sqrt(rater.accuracy * (1 - rater.accuracy) / len(right))
    assert len(right) > 1000
    assert sum(right) / len(right) == pytest.approx(rater.accuracy, abs=3 * standard_error)


@pytest.mark.parametrize(
    "difference, expected",
    [
        # proportional odds towards the second reply, cuts ±.5 ±1.5 ±2.5
        (-1.0, (0.029312, 0.046546, 0.106567, 0.195115, 0.244919, 0.195115, 0.182426)),
        (0.0, (0.075858, 0.106567, 0.195115, 0.244919, 0.195115, 0.106567, 0.075858)),
        (1.0, (0.182426, 0.195115, 0.244919, 0.195115, 0.106567, 0.046546, 0.029312)),
    ],
)
def test_grades_follow_proportional_odds(difference: float, expected: tuple[float, ...]) -> None:
    rng, n = random.Random(5), 40_000
    counts = Counter(draw_grade(difference, rng) for _ in range(n))
    chi2 = sum((counts[g] - n * e) ** 2 / (n * e) for g, e in enumerate(expected, start=1))
    assert chi2 < 22.46  # the .999 point of chi-square with 6 degrees of freedom


def test_first_place_of_a_ranking_follows_softmax() -> None:
    rng, n = random.Random(2), 20_000
    utilities = (0.0, 1.0, -1.0, 0.5)
    expected = np.exp(utilities) / np.exp(utilities).sum()
    counts = Counter(draw_ranking(utilities, rng)[0] for _ in range(n))
    for place, share in enumerate(expected):
        assert counts[place] / n == pytest.approx(share, abs=4 * math.sqrt(share / n))


def test_second_place_follows_softmax_of_the_rest() -> None:
    rng = random.Random(3)
    orders = [draw_ranking((0.0, 1.0, 2.0), rng) for _ in range(20_000)]
    seconds = [order[1] for order in orders if order[0] == 2]
    assert seconds.count(1) / len(seconds) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)


def test_latent_difference_adds_tone_and_length() -> None:
    assert latent_difference(CAREFUL, 1.5) == pytest.approx(0.94 * 2 * 1.5)
    assert latent_difference(LENGTH_LOVER, 0.0, 10) == pytest.approx(0.5)
    assert latent_difference(ADVERSARY, 1.0) < 0


def test_wrong_facts_cost_three_points() -> None:
    prompt = DESK.flagship()
    assert quality(prompt, CORE, DESK.cards) == 0.0
    assert quality(prompt, f"{WRONG} happy washing !", DESK.cards) == pytest.approx(-2.0)


def test_why_says_what_is_true_of_the_two_texts() -> None:
    sure = replace(CAREFUL, sensitivity=50.0)
    (warmer,) = label([comparison(f"{CORE} happy washing !", CORE)], [sure], DESK.cards)
    assert (warmer.grade, warmer.strength, warmer.why) == (1, 3, "warmer, same facts")
    (facts,) = label([comparison(f"{WRONG} happy washing !", CORE)], [sure], DESK.cards)
    assert (facts.grade, facts.why) == (7, "the other has wrong facts")


def test_same_words_give_a_tie_and_no_grade() -> None:
    (said,) = label([comparison(CORE, CORE)], [CAREFUL], DESK.cards)
    assert (said.kind, said.grade, said.strength) == ("tie", None, 0)


def test_four_replies_give_a_ranking_with_equal_replies_in_one_group() -> None:
    sure = replace(CAREFUL, sensitivity=50.0)
    shown = comparison(CORE, f"{CORE} happy washing !", WRONG, CORE)
    (said,) = label([shown], [sure], DESK.cards)
    assert said.kind == "ranking"
    assert said.ranking == ((1,), (0, 3), (2,))


def test_judgments_are_marked_simulated_and_dated_by_guideline() -> None:
    for said in label(grammar_pairs(2000)[:20], PANEL, DESK.cards):
        assert said.rater.kind == "simulated"
        assert said.rater.id.startswith("sim-")
        assert said.guideline.startswith("care-desk-1:")
        assert said.seconds is not None
        assert said.seconds > 0


def test_leaving_a_rater_out_changes_no_other_judgment() -> None:
    pairs = grammar_pairs(2000)[:50]
    everyone = label(pairs, PANEL, DESK.cards, seed=1)
    alone = label(pairs[::-1], [PANEL[1]], DESK.cards, seed=1)
    assert [j for j in everyone if j.rater.id == PANEL[1].id] == alone[::-1]
    assert everyone != label(pairs, PANEL, DESK.cards, seed=2)
    assert len({j.id for j in everyone}) == len(everyone) == 150


def test_two_average_raters_disagree_with_each_other_at_times() -> None:
    said = label(grammar_pairs(2000)[:200], PANEL[1:], DESK.cards)
    assert 0 < sum(a.grade != b.grade for a, b in zip(said[::2], said[1::2], strict=True)) < 200


def test_side_order_is_fixed_by_the_hash_and_even() -> None:
    prompt = DESK.flagship()
    firsts = []
    for n in range(400):
        two = [response(prompt, CORE, f"a{n}"), response(prompt, WRONG, f"b{n}")]
        shown = show(prompt, two)
        assert shown == show(prompt, two[::-1])
        firsts.append(shown.responses[0].id.startswith("a"))
    assert sum(firsts) == pytest.approx(200, abs=4 * 10)


def test_length_judge_follows_length_and_hardly_quality() -> None:
    judge = LENGTH_JUDGES[0]
    rng = random.Random(0)
    texts = [mixed_reply(CORE, rng) for _ in range(2000)]
    lengths = [
        len(a.split()) - len(b.split()) for a, b in zip(texts[::2], texts[1::2], strict=True)
    ]
    gaps = [
        DESK.gold_tone(a) - DESK.gold_tone(b) for a, b in zip(texts[::2], texts[1::2], strict=True)
    ]
    felt = [latent_difference(judge, g, n) for g, n in zip(gaps, lengths, strict=True)]
    assert np.corrcoef(felt, lengths)[0, 1] > 0.95
    assert np.corrcoef(felt, gaps)[0, 1] < 0.5
