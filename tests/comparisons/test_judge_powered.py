"""Win rates by people on a slice and a judge on everything."""

import random

import pytest
from tests.comparisons.judge_world import people_on, response, summed

from preftune.comparisons.judging.powered import FEWEST_LABELLED, win_rates
from preftune.types import Comparison, Judgment, Rater, make_prompt, user


def judged(comparison: Comparison, choice: int | None, *, scores: bool = False) -> Judgment:
    odds = () if not scores else (0.8, 0.2) if choice == 0 else (0.2, 0.8)
    return Judgment(
        id=f"{comparison.id}/j",
        comparison_id=comparison.id,
        kind="tie" if choice is None else "binary",
        choice=choice,
        scores=odds,
        rater=Rater(id="judge", kind="judge"),
        dimension="sums",
    )


def place_of(name: str, comparison: Comparison) -> int:
    return [r.generator for r in comparison.responses].index(name)


def test_a_judge_that_leans_is_corrected_by_the_people() -> None:
    """Truth: good wins always. The judge is for bad in every fourth; people label every other."""
    shown = [summed(n) for n in range(200)]
    said = [judged(c, place_of("bad" if n % 4 == 0 else "good", c)) for n, c in enumerate(shown)]
    (rate,) = win_rates(shown, said, [people_on(c) for c in shown[::2]])
    assert (rate.judge, rate.generator) == ("judge", "bad")  # of two the first by name
    assert (rate.judge_says, rate.labelled, rate.n) == (0.25, 100, 200)
    assert rate.people.value == 0.0
    assert rate.powered.value == pytest.approx(0.0)  # its weight is 0: the people are sure


def test_both_orders_count_once_and_probabilities_as_they_are() -> None:
    shown = [summed(n, right_first=True) for n in range(40)]
    said = [judged(c, 0, scores=True) for c in shown]
    said += [judged(c.swap(), 0) for c in shown]  # the other order names the first place again
    (rate,) = win_rates(shown, said, map(people_on, shown))
    assert rate.judge_says == pytest.approx(1 - (0.8 + 0.0) / 2)
    assert rate.n == 40


def test_few_labels_say_nothing() -> None:
    shown = [summed(n) for n in range(100)]
    said = [judged(c, place_of("good", c)) for c in shown]
    enough = [people_on(c) for c in shown[:FEWEST_LABELLED]]
    assert len(win_rates(shown, said, enough)) == 1
    assert win_rates(shown, said, enough[1:]) == []
    assert win_rates(shown, said, ()) == []


def test_of_three_models_each_is_told_and_the_interval_is_shorter_than_of_people_alone() -> None:
    draw = random.Random(0)
    shown, said, people = [], [], []
    for n in range(600):
        prompt = make_prompt(user(f"question {n} ?"))
        names = draw.sample(["a", "b", "c"], 2)
        two = tuple(response(prompt, f"{name} says {n}", name) for name in names)
        one = Comparison(id=f"c{n}", prompt=prompt, responses=two)
        truth = int(draw.random() < 0.4)
        shown.append(one)
        said.append(judged(one, truth if draw.random() < 0.9 else 1 - truth))
        if n < 150:
            people.append(
                Judgment(
                    id=f"c{n}/ann",
                    comparison_id=one.id,
                    kind="binary",
                    choice=truth,
                    rater=Rater(id="ann", kind="human"),
                    dimension="sums",
                )
            )
    rates = win_rates(shown, said, people)
    assert {rate.generator for rate in rates} == {"a", "b", "c"}
    for rate in rates:
        assert rate.powered.se < 0.9 * rate.people.se
        assert rate.powered.low < 0.5 < rate.powered.high
        assert "by people and judge; people alone" in str(rate)
