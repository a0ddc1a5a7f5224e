import itertools
from typing import Any

import numpy as np
import pytest

from preftune.comparisons.bias import length_bias, length_bias_of_lists, position_bias
from preftune.comparisons.vote_table import vote_table
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Judgment,
    RankedList,
    Rater,
    Response,
    assistant,
    make_prompt,
    user,
)

COUNT = itertools.count()


def shown(name: str, *texts: str) -> Comparison:
    prompt = make_prompt(user(name))
    responses = tuple(
        Response(id=f"{name}-{i}", prompt_id=prompt.id, messages=(assistant(text),))
        for i, text in enumerate(texts)
    )
    return Comparison(id=name, prompt=prompt, responses=responses)


def said(on: str, choice: int | None, rater: str = "ann", kind: Any = "human") -> Judgment:
    return Judgment(
        id=f"j{next(COUNT)}",
        comparison_id=on,
        kind="tie" if choice is None else "binary",
        choice=choice,
        rater=Rater(id=rater, kind=kind),
    )


def test_position_bias_counts_decided_votes_as_shown() -> None:
    judgments = [said(f"c{n}", 0, "left") for n in range(12)]
    judgments += [said(f"c{n}~swapped", 0, "left") for n in range(12)]
    judgments += [said(f"c{n}", n % 2, "fair") for n in range(24)]
    judgments += [said(f"c{n}", 1, "right") for n in range(12)] + [said("c0", None, "right")]
    leans = {lean.who: lean for lean in position_bias(vote_table(judgments))}
    assert {who: lean.sign for who, lean in leans.items()} == {"left": 1, "fair": 0, "right": -1}
    assert (leans["left"].share.value, leans["left"].share.n) == (1.0, 24)
    assert leans["right"].share.n == 12  # the tie is not counted
    assert str(leans["right"]) == (
        "right: the first shown wins 0% (0–24) of 12: favours the second shown"
    )


def test_raters_of_one_kind_are_counted_together() -> None:
    judgments = [said(f"c{n}", 0, f"r{n}", "judge") for n in range(20)]
    judgments += [said(f"c{n}", n % 2, f"h{n}") for n in range(20)]
    leans = position_bias(vote_table(judgments), by="kind")
    assert [(lean.who, lean.alarm) for lean in leans] == [("judge", True), ("human", False)]


def test_length_bias_follows_the_longer_whatever_the_order() -> None:
    comparisons = [shown(f"c{n}", "short", "much longer") for n in range(20)]
    comparisons += [comparison.swap() for comparison in comparisons]
    judgments = [said(f"c{n}", 1) for n in range(20)]
    judgments += [said(f"c{n}~swapped", 0, "bob") for n in range(20)]
    judgments += [said(f"c{n}", 0, "eve") for n in range(20)]
    leans = length_bias(judgments, comparisons)
    assert [(lean.who, lean.sign) for lean in leans] == [("ann", 1), ("bob", 1), ("eve", -1)]


def test_equal_lengths_and_ties_are_left_out() -> None:
    comparisons = [shown("c0", "same", "size"), shown("c1", "a", "bb"), shown("c2", "a", "bb")]
    leans = length_bias([said("c0", 1), said("c1", None), said("c2", 1)], comparisons)
    assert [lean.share.n for lean in leans] == [1]


def test_a_ranking_of_three_is_three_votes_of_one_comparison() -> None:
    comparisons = [shown(f"c{n}", "a", "bb", "ccc") for n in range(15)]
    judgments = [
        Judgment(
            id=f"r{n}",
            comparison_id=f"c{n}",
            kind="ranking",
            ranking=((2,), (1,), (0,)),
            rater=Rater(id="ann", kind="human"),
        )
        for n in range(15)
    ]
    (lean,) = length_bias(judgments, comparisons)
    assert (lean.share.value, lean.share.n, lean.sign) == (1.0, 45, 1)
    alone = length_bias(
        [said(f"d{n}", 1) for n in range(15)], [shown(f"d{n}", "a", "bb") for n in range(15)]
    )
    assert lean.share.low == pytest.approx(alone[0].share.low)  # as sure as 15 votes, not 45


def test_lists_are_counted_by_prompt() -> None:
    rng = np.random.default_rng(0)
    lists = []
    for n in range(60):
        texts = ["x" * size for size in (30, 20, 10)]
        if rng.random() < 0.1:
            texts = texts[::-1]
        lists.append(
            RankedList(
                id=f"l{n}",
                prompt=make_prompt(user(f"{n}")),
                responses=tuple((assistant(text),) for text in texts),
                ranks=(1, 2, 2),
            )
        )
    lean = length_bias_of_lists(lists)
    assert lean is not None
    assert (lean.share.n, lean.sign) == (120, 1)  # the tied two of each list are left out
    assert lean.share.high - lean.share.low > 0.1  # 60 prompts, not 120 pairs
    assert length_bias_of_lists([]) is None


def test_judgments_of_unknown_comparisons_are_refused() -> None:
    with pytest.raises(DataError, match="c9"):
        length_bias([said("c9", 1)], [shown("c0", "a", "bb")])
