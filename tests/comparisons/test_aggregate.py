import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.comparisons.aggregate import (
    Aggregated,
    pairs_from_judgments,
    rankings_from_judgments,
)
from preftune.comparisons.rater_model import RaterModel
from preftune.comparisons.votes import signed_votes
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Judgment,
    PreferencePair,
    Rater,
    Response,
    assistant,
    make_prompt,
    text_of,
    user,
)

PROMPT = make_prompt(user("May it go in the washer?"), source="desk")
COUNT = itertools.count()


def response(text: str) -> Response:
    return Response(
        id=f"r-{text}", prompt_id=PROMPT.id, messages=(assistant(text),), generator=f"model {text}"
    )


def shown(*texts: str, name: str = "c") -> Comparison:
    return Comparison(id=name, prompt=PROMPT, responses=tuple(map(response, texts)))


def said(kind: Any, rater: str = "ann", on: str = "c", **verdict: Any) -> Judgment:
    return Judgment(
        id=f"j{next(COUNT)}",
        comparison_id=on,
        kind=kind,
        rater=Rater(id=rater, kind="human"),
        **verdict,
    )


def joined(*judgments: Judgment, **options: Any) -> Aggregated:
    pair = shown("A", "B")
    return pairs_from_judgments([pair, pair.swap()], judgments, **options)


def only_pair(found: Aggregated) -> PreferencePair:
    assert not found.ties
    assert len(found.pairs) == 1
    return found.pairs[0]


def test_one_vote_makes_a_pair_with_all_that_was_said() -> None:
    pair = only_pair(
        joined(said("scale", grade=6, scores=(2.0, 5.0), why="warmer", guideline="v1"))
    )
    assert (text_of(pair.chosen), text_of(pair.rejected)) == ("B", "A")
    assert (pair.strength, pair.probability) == (2, 1.0)
    assert (pair.chosen_score, pair.rejected_score) == (5.0, 2.0)
    assert pair.why == "ann: warmer"
    assert pair.provenance.comparison_id == "c"
    assert pair.provenance.raters == ("ann",)
    assert pair.provenance.rater_kind == "human"
    assert pair.provenance.guideline == "v1"
    assert pair.provenance.source == "desk"
    assert pair.provenance.chosen_generator == "model B"
    assert pair.provenance.chosen_shown_first is False


def test_strength_is_the_median_grade_and_probability_the_smoothed_share() -> None:
    pair = only_pair(
        joined(
            said("scale", "ann", grade=1),
            said("scale", "bob", grade=3),
            said("scale", "cid", grade=5),
        )
    )
    assert text_of(pair.chosen) == "A"
    assert pair.strength == 1  # median of 3, 1, -1
    assert pair.probability == pytest.approx((2 + 0.5) / (3 + 1))


def test_binary_votes_say_nothing_of_strength() -> None:
    pair = only_pair(joined(said("binary", "ann", choice=0), said("binary", "bob", choice=0)))
    assert pair.strength is None
    assert pair.probability == pytest.approx(2.5 / 3)


def test_a_tie_counts_half_in_the_probability() -> None:
    votes = [said("binary", rater, choice=1) for rater in ("ann", "bob")]
    assert only_pair(joined(*votes, said("tie", "cid"))).probability == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    "judgments",
    [
        [said("tie")],
        [said("scale", grade=4)],
        [said("binary", "ann", choice=0), said("binary", "bob", choice=1)],
        [said("binary", "ann", choice=0), said("tie", "bob")],
        [said("binary", "ann", choice=0), said("tie", "bob"), said("tie", "cid")],
    ],
)
def test_ties_and_even_splits_are_ties_and_never_pairs(judgments: list[Judgment]) -> None:
    found = joined(*judgments)
    assert [tie.id for tie in found.ties] == ["c"]
    assert not found.pairs


def test_the_swapped_order_is_the_same_unit_turned_round() -> None:
    pair = only_pair(
        joined(
            said("scale", "ann", grade=2, scores=(9.0, 1.0)),
            said("scale", "bob", on="c~swapped", grade=7, scores=(1.0, 7.0)),
        )
    )
    assert text_of(pair.chosen) == "A"
    assert pair.strength == 3  # median of 2 and 3, halves up
    assert (pair.chosen_score, pair.rejected_score) == (8.0, 1.0)
    assert pair.provenance.chosen_shown_first is None  # shown both ways


def test_chosen_shown_first_follows_the_swapped_order() -> None:
    pair = only_pair(joined(said("binary", on="c~swapped", choice=0)))
    assert text_of(pair.chosen) == "B"
    assert pair.provenance.chosen_shown_first is True


def test_a_judge_who_contradicts_itself_votes_tie() -> None:
    found = joined(said("binary", choice=0), said("binary", on="c~swapped", choice=0))
    assert len(found.ties) == 1


def test_a_later_verdict_of_a_rater_replaces_the_earlier() -> None:
    found = joined(said("binary", choice=0), said("binary", choice=1))
    assert text_of(only_pair(found).chosen) == "B"
    assert found.repeats == 1


def test_accuracies_give_the_posterior_and_can_overrule_the_majority() -> None:
    votes = [said("binary", "ann", choice=0)]
    votes += [said("binary", rater, choice=1) for rater in ("bob", "cid")]
    pair = only_pair(joined(*votes, accuracies={"ann": 0.95, "bob": 0.6, "cid": 0.6}))
    assert text_of(pair.chosen) == "A"
    odds = 19 / (1.5 * 1.5)
    assert pair.probability == pytest.approx(odds / (1 + odds))


def test_a_rater_without_an_accuracy_is_named() -> None:
    with pytest.raises(DataError, match="rater ann has no accuracy"):
        joined(said("binary", choice=0), accuracies={"bob": 0.9})


def known_raters(**skill_and_side: tuple[float, float]) -> RaterModel:
    return RaterModel(
        skill={rater: skill for rater, (skill, _) in skill_and_side.items()},
        side={rater: side for rater, (_, side) in skill_and_side.items()},
        tie=dict.fromkeys(skill_and_side, 0.5),
        rounds=0,
    )


def test_a_rater_model_gives_the_probability_and_can_overrule_the_majority() -> None:
    votes = [said("binary", "ann", choice=0)]
    votes += [said("binary", rater, choice=1) for rater in ("bob", "cid")]
    model = known_raters(ann=(5.0, 0.0), bob=(0.5, 0.0), cid=(0.5, 0.0))
    pair = only_pair(joined(*votes, model=model))
    assert text_of(pair.chosen) == "A"
    said_so = [("ann", 1, False), ("bob", -1, False), ("cid", -1, False)]
    assert pair.probability == pytest.approx(model.probability(said_so))


def test_a_rater_model_knows_the_side_and_hears_both_orders() -> None:
    model = known_raters(left=(1.0, 2.0), ann=(2.0, 0.0))
    first = only_pair(joined(said("binary", "left", choice=0), model=model))
    against = only_pair(joined(said("binary", "left", choice=1), model=model))
    assert 0.5 < first.probability < 0.7 < against.probability  # a lone vote is not certain
    habit = [said("binary", "left", choice=0), said("binary", "left", on="c~swapped", choice=0)]
    assert joined(*habit, model=model).ties  # always left: a tie, as without the model
    both = [said("binary", "ann", choice=0), said("binary", "ann", on="c~swapped", choice=1)]
    pair = only_pair(joined(*both, model=model))
    assert text_of(pair.chosen) == "A"
    heard = [("ann", 1, False), ("ann", -1, True)]
    assert pair.probability == pytest.approx(model.probability(heard))


def test_a_rater_model_weighs_the_grades() -> None:
    votes = [said("scale", "ann", grade=1), said("scale", "bob", grade=3)]
    votes += [said("scale", "foe", grade=7)]
    model = known_raters(ann=(1.0, 0.0), bob=(3.0, 0.0), foe=(-2.0, 0.0))
    pair = only_pair(joined(*votes, model=model))
    assert pair.strength == 1  # bob's; the adversary's grade is not heard
    foe = only_pair(joined(said("scale", "foe", grade=7), model=model))
    assert (text_of(foe.chosen), foe.strength) == ("A", None)


def test_a_rater_model_sees_the_pairs_of_a_ranking() -> None:
    ranking = [said("ranking", "ann", ranking=((2,), (0, 1)))]
    found = pairs_from_judgments(
        [shown("A", "B", "C")], ranking, model=known_raters(ann=(2.0, 0.0))
    )
    assert [(text_of(p.chosen), text_of(p.rejected)) for p in found.pairs] == [
        ("C", "A"),
        ("C", "B"),
    ]
    assert all(0.7 < pair.probability < 0.9 for pair in found.pairs)


def test_accuracies_and_a_model_are_not_both_taken() -> None:
    with pytest.raises(DataError, match="Give one of them"):
        joined(said("binary", choice=0), accuracies={"ann": 0.9}, model=known_raters(ann=(1, 0)))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_equal_skills_give_the_plain_median(grades: list[int]) -> None:
    votes = [said("scale", f"r{n}", grade=4 - grade) for n, grade in enumerate(grades)]
    model = known_raters(**{f"r{n}": (2.0, 0.0) for n in range(len(grades))})
    for weighed, plain in zip(
        joined(*votes, model=model).pairs, joined(*votes).pairs, strict=False
    ):
        assert (weighed.chosen, weighed.strength) == (plain.chosen, plain.strength)


def test_unparsed_answers_are_counted_and_never_scored() -> None:
    found = joined(said("unparsed", why="both are fine"))
    assert (found.unparsed, len(found.unjudged), found.pairs, found.ties) == (1, 1, [], [])


def test_other_dimensions_are_left_alone() -> None:
    found = joined(said("binary", choice=0, dimension="tone"))
    assert not found.pairs
    assert (
        only_pair(joined(said("binary", choice=0, dimension="tone"), dimension="tone")).id
        == "c/tone"
    )


def test_a_decided_verdict_on_equal_texts_is_no_pair() -> None:
    found = pairs_from_judgments([shown("A", "A")], [said("binary", choice=0)])
    assert (len(found.identical), found.pairs) == (1, [])


def test_a_rewrite_beats_all_that_was_shown() -> None:
    found = joined(said("rewrite", rewrite=response("C")))
    assert [(text_of(p.chosen), text_of(p.rejected)) for p in found.pairs] == [
        ("C", "A"),
        ("C", "B"),
    ]


def test_a_ranking_gives_every_pair_and_its_ties() -> None:
    found = pairs_from_judgments([shown("A", "B", "C")], [said("ranking", ranking=((2,), (0, 1)))])
    assert [(text_of(p.chosen), text_of(p.rejected)) for p in found.pairs] == [
        ("C", "A"),
        ("C", "B"),
    ]
    assert [tie.id for tie in found.ties] == ["c/0-1"]


def test_a_choice_among_three_beats_the_other_two_and_says_no_more() -> None:
    found = pairs_from_judgments([shown("A", "B", "C")], [said("binary", choice=1)])
    assert [(text_of(p.chosen), text_of(p.rejected)) for p in found.pairs] == [
        ("B", "A"),
        ("B", "C"),
    ]
    assert not found.ties


def test_rankings_are_averaged_over_raters() -> None:
    ranked = rankings_from_judgments(
        [shown("A", "B", "C")],
        [
            said("ranking", "ann", ranking=((2,), (0,), (1,)), scores=(50.0, 40.0, 90.0)),
            said("ranking", "bob", ranking=((2,), (1,), (0,)), scores=(30.0, 40.0, 70.0)),
        ],
    )
    assert [text_of(messages) for messages in ranked[0].responses] == ["C", "A", "B"]
    assert ranked[0].ranks == (1, 2, 2)
    assert ranked[0].scores == (80.0, 40.0, 40.0)
    assert ranked[0].provenance.raters == ("ann", "bob")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "binary", "choice": 2},
        {"kind": "ranking", "ranking": ((0,),)},
        {"kind": "tie", "scores": (1.0,)},
        {"kind": "binary", "choice": 0, "on": "elsewhere"},
    ],
)
def test_a_verdict_that_fits_no_comparison_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="judgment j"):
        joined(said(**wrong))


def test_a_grade_on_three_responses_is_refused() -> None:
    with pytest.raises(DataError, match="does not fit the 3 responses"):
        pairs_from_judgments([shown("A", "B", "C")], [said("scale", grade=1)])


def test_two_orders_with_different_responses_are_refused() -> None:
    orders = [shown("A", "B"), shown("C", "A", name="c~swapped")]
    with pytest.raises(DataError, match="two orders, different responses"):
        pairs_from_judgments(orders, [])


def test_signed_votes_turn_the_swapped_order() -> None:
    judgments = [
        said("scale", "ann", grade=2),
        said("scale", "bob", on="c~swapped", grade=2),
        said("binary", "cid", choice=1),
        said("tie", "dot"),
        said("unparsed", "eve"),
    ]
    assert list(signed_votes(judgments)) == [
        ("c", "ann", 2.0),
        ("c", "bob", -2.0),
        ("c", "cid", -1.0),
        ("c", "dot", 0.0),
    ]


grades = st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=7)


@given(grades)
def test_turning_every_comparison_round_gives_the_same_pair(votes: list[tuple[int, bool]]) -> None:
    one, other = [], []
    for rater, (grade, swapped) in enumerate(votes):
        one.append(said("scale", f"r{rater}", on="c~swapped" if swapped else "c", grade=grade))
        other.append(
            said("scale", f"r{rater}", on="c" if swapped else "c~swapped", grade=8 - grade)
        )
    a, b = joined(*one), joined(*other)
    assert len(a.ties) == len(b.ties)
    assert [(p.chosen, p.strength, p.probability) for p in a.pairs] == [
        (p.chosen, p.strength, p.probability) for p in b.pairs
    ]
    assert all(pair.probability > 0.5 for pair in a.pairs)
