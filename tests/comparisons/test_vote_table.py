import itertools
import math
from typing import Any

import pytest

from preftune.comparisons.vote_table import FEWEST_PROMPTS, vote_table
from preftune.errors import DataError
from preftune.types import Comparison, Judgment, Rater, Response, assistant, make_prompt, user

COUNT = itertools.count()


def shown(name: str, *, k: int = 2, question: str = "?") -> Comparison:
    prompt = make_prompt(user(question))
    responses = tuple(
        Response(id=f"{name}-{i}", prompt_id=prompt.id, messages=(assistant(f"text {i}"),))
        for i in range(k)
    )
    return Comparison(id=name, prompt=prompt, responses=responses)


def said(on: str, kind: Any, rater: str = "ann", **fields: Any) -> Judgment:
    return Judgment(
        id=f"j{next(COUNT)}",
        comparison_id=on,
        kind=kind,
        rater=Rater(id=rater, kind="human"),
        **fields,
    )


def test_votes_are_counted_as_shown_and_in_the_first_order() -> None:
    votes = vote_table(
        [
            said("c", "binary", choice=0, seconds=3.5),
            said("c~swapped", "scale", "bob", grade=1),
            said("c", "tie", "cid"),
            said("c", "unparsed", "dot"),
            said("c", "binary", "eve", choice=1, dimension="tone"),
        ]
    )
    assert votes.units == ("c",)
    assert votes.raters == ("ann", "bob", "cid", "dot")  # dot gave no vote, eve another dimension
    assert votes.shown.tolist() == [1, 1, 0]
    assert votes.vote.tolist() == [1, -1, 0]
    assert votes.swapped.tolist() == [False, True, False]
    assert votes.seconds[0] == 3.5
    assert math.isnan(votes.seconds[1])


def test_a_ranking_is_a_vote_between_every_two_and_turns_with_the_order() -> None:
    first = shown("c", k=3)
    swapped = first.swap()
    votes = vote_table(
        [
            said("c", "ranking", ranking=((2,), (0, 1))),
            said("c~swapped", "ranking", "bob", ranking=((0,), (1, 2))),  # the same three, turned
        ],
        [first, swapped],
    )
    by_rater = {
        rater: {
            votes.units[u]: int(v)
            for u, v, r in zip(votes.unit, votes.vote, votes.rater, strict=True)
            if votes.raters[r] == rater
        }
        for rater in votes.raters
    }
    assert by_rater["ann"] == {"c/0-1": 0, "c/0-2": -1, "c/1-2": -1}
    assert by_rater["bob"] == by_rater["ann"]


def test_a_choice_among_three_says_nothing_of_the_other_two() -> None:
    votes = vote_table([said("c", "binary", choice=1)], [shown("c", k=3)])
    assert dict(zip(votes.units, votes.vote.tolist(), strict=True)) == {"c/0-1": -1, "c/1-2": 1}


def test_the_last_vote_of_a_rater_stands() -> None:
    votes = vote_table(
        [
            said("c", "binary", choice=0),
            said("c~swapped", "binary", choice=0),
            said("c", "binary", choice=1),
            said("c", "binary", "bob", choice=1),
        ]
    )
    assert votes.last().tolist() == [False, False, True, True]
    assert votes.last(by_order=True).tolist() == [False, True, True, True]
    assert votes.where(votes.last()).shown.tolist() == [-1, -1]


def test_intervals_count_prompts_where_there_are_enough() -> None:
    few = [shown(f"c{n}", question=f"{n // 2}") for n in range(2 * FEWEST_PROMPTS - 2)]
    many = [*few, shown("c-last", question="one more")]
    judgments = [said(c.id, "binary", choice=0) for c in many]
    by_comparison = vote_table(judgments[:-1], few)
    assert by_comparison.clusters == "comparison"
    assert len(set(by_comparison.cluster.tolist())) == len(few)
    by_prompt = vote_table(judgments, many)
    assert by_prompt.clusters == "prompt"
    assert len(set(by_prompt.cluster.tolist())) == FEWEST_PROMPTS
    assert vote_table(judgments).clusters == "comparison"  # prompts not known


def test_no_judgments_are_an_empty_table() -> None:
    votes = vote_table([])
    assert (len(votes), votes.units, votes.last().tolist()) == (0, (), [])


@pytest.mark.parametrize(
    ("judgment", "known"),
    [
        (said("elsewhere", "binary", choice=0), [shown("c")]),
        (said("c", "binary", choice=2), [shown("c")]),
        (said("c", "binary", choice=2), []),
        (said("c", "scale", grade=1), [shown("c", k=3)]),
        (said("c", "ranking", ranking=((0,), (1,))), [shown("c", k=3)]),
    ],
)
def test_a_verdict_that_fits_no_comparison_is_refused(
    judgment: Judgment, known: list[Comparison]
) -> None:
    with pytest.raises(DataError, match=judgment.id):
        vote_table([judgment], known)
