"""How the lead's pages say things: verdicts in words, answers of forms, cells of a table."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.datasets.formats.csv_table import unescape
from preftune.errors import DataError
from preftune.serving.lead_raters import table_csv
from preftune.serving.lead_view import answer_of, as_shown, choices, in_words, verdict_of
from preftune.store.items import Verdict, as_imported, check_verdict
from preftune.store.overview import Colleague
from preftune.store.rater_table import RaterRow, Share

NONE = Share(hits=0, of=0)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ({"kind": "scale", "grade": 1}, "A much better"),
        ({"kind": "scale", "grade": 4}, "about equal"),
        ({"kind": "scale", "grade": 7}, "B much better"),
        ({"kind": "binary", "choice": 1}, "B better"),
        ({"kind": "tie"}, "tie"),
        ({"kind": "ranking", "ranking": [[1], [0, 2]]}, "B, then A = C"),
        ({"kind": "rewrite", "rewrite": "x"}, "rewritten"),
    ],
)
def test_a_verdict_is_said_in_words(verdict: Verdict, words: str) -> None:
    assert in_words(verdict) == words


def test_keys_are_those_of_the_raters() -> None:
    assert [choice.key for choice in choices("scale", 2, tie=True)] == list("1234567")
    assert [choice.value for choice in choices("scale", 2, tie=True) if choice.tie] == ["4"]
    assert "4" not in [choice.value for choice in choices("scale", 2, tie=False)]
    assert [choice.key for choice in choices("binary", 2, tie=True)] == ["1", "2", "T"]
    assert choices("ranking", 3, tie=True) == []


rankings = st.integers(2, 6).flatmap(lambda k: st.lists(st.integers(1, k), min_size=k, max_size=k))


@given(rankings)
def test_places_make_a_ranking_that_is_valid_and_comes_back(places: list[int]) -> None:
    verdict = verdict_of("ranking", ",".join(map(str, places)))
    check_verdict(verdict, kind="ranking", responses=len(places))
    order = {at: n for n, group in enumerate(verdict["ranking"]) for at in group}
    assert all(
        (places[a] < places[b]) == (order[a] < order[b])
        for a in range(len(places))
        for b in range(len(places))
    )
    assert verdict_of("ranking", answer_of(verdict, len(places))) == verdict


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("scale", "3"), ("binary", "0"), ("binary", "tie"), ("rewrite", "a\nb"), ("ranking", "2,1,1")],
)
def test_an_answer_comes_back_from_its_verdict(kind: str, answer: str) -> None:
    assert answer_of(verdict_of(kind, answer), 3) == answer


@pytest.mark.parametrize("answer", ["", "x", "1,", "-1", "1.5", "٣", "9999999"])
def test_what_is_no_answer_is_refused(answer: str) -> None:
    with pytest.raises(DataError, match="answer"):
        verdict_of("scale", answer)


@given(st.permutations(range(4)), rankings.filter(lambda places: len(places) == 4))
def test_a_verdict_as_shown_and_as_imported_are_two_views_of_one(
    shown: list[int], places: list[int]
) -> None:
    verdict = verdict_of("ranking", ",".join(map(str, places)))
    assert as_imported(as_shown(verdict, shown), shown) == verdict


texts = st.text(max_size=20)


@given(texts, texts, st.lists(texts, max_size=2))
def test_no_cell_of_the_table_begins_like_a_formula_and_texts_come_back(
    name: str, email: str, flags: list[str]
) -> None:
    person = Colleague(user_id="u", name=name, email=email, role="rater", state="active")
    row = RaterRow(
        user_id="u",
        items=3,
        verdicts=4,
        per_hour=None,
        median_s=12.5,
        known=Share(hits=1, of=2),
        repeats=NONE,
        first=NONE,
        others=NONE,
        flags=tuple(flags),
    )
    text = table_csv([(name, person, row)])
    header, cells = csv.reader(io.StringIO(text, newline=""))
    assert len(header) == len(cells)
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    told = dict(zip(header, cells, strict=True))
    assert unescape(told["name"]) == name
    assert unescape(told["e-mail"]) == email
    assert unescape(told["flags"]) == "; ".join(flags)
    assert (told["items"], told["median seconds"]) == ("3", "12.5")
    assert told["known answers right: low"] == "0.09453"  # Wilson, 1 of 2
