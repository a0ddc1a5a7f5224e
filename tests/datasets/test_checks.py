import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.datasets.checks import (
    WORD,
    Known,
    check_file,
    check_rows,
    find_conflicts,
    find_duplicates,
    find_leaks,
    find_near_duplicates,
    find_problems,
    one_word_apart,
    words_of,
)
from preftune.datasets.scanned import Problem, Scanned
from preftune.datasets.views import decided, exact_key, is_tie, places_of
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    Provenance,
    RankedList,
    Rater,
    Record,
    Response,
    ToolCall,
    UnpairedRow,
    assistant,
    make_prompt,
    user,
)


def said(text: str) -> tuple[Message, ...]:
    return (assistant(text),)


def pair(prompt: str, chosen: str, rejected: str, **fields: Any) -> PreferencePair:
    return PreferencePair(
        id="x",
        prompt=make_prompt(user(prompt)),
        chosen=said(chosen),
        rejected=said(rejected),
        **fields,
    )


def rows(*records: Record) -> list[Scanned]:
    return [Scanned(line=place, record=record) for place, record in enumerate(records, 1)]


def write_pairs(path: Path, *pairs: tuple[str, str, str]) -> Path:
    names = ("prompt", "chosen", "rejected")
    path.write_text("".join(json.dumps(dict(zip(names, p, strict=True))) + "\n" for p in pairs))
    return path


def test_duplicates_are_grouped_by_content_and_not_by_id() -> None:
    same = pair("q", "a", "b")
    other_id = PreferencePair(
        id="y", prompt=same.prompt, chosen=same.chosen, rejected=same.rejected
    )
    assert find_duplicates(rows(same, pair("q", "a", "c"), other_id)) == [(1, 3)]


def test_the_same_pair_from_two_raters_or_in_two_dimensions_is_no_duplicate() -> None:
    by = [pair("q", "a", "b", provenance=Provenance(raters=(r,))) for r in ("ann", "bob")]
    assert find_duplicates(rows(*by, pair("q", "a", "b", dimension="tone"))) == []


def test_conflict_names_both_rows() -> None:
    opposed = rows(pair("q", "a", "b"), pair("r", "a", "b"), pair("q", "b", "a"))
    assert find_conflicts(opposed) == [(1, 3)]


def test_no_conflict_between_dimensions_or_prompts() -> None:
    assert (
        find_conflicts(
            rows(pair("q", "a", "b"), pair("q", "b", "a", dimension="tone"), pair("r", "b", "a"))
        )
        == []
    )


def test_a_ranked_list_conflicts_with_a_pair_it_implies_the_reverse_of() -> None:
    ranked = RankedList(
        id="l",
        prompt=make_prompt(user("q")),
        responses=(said("a"), said("b"), said("c")),
        ranks=(0, 1, 1),
    )
    assert find_conflicts(rows(ranked, pair("q", "c", "a"))) == [(1, 2)]
    assert find_conflicts(rows(ranked, pair("q", "c", "b"))) == []  # b and c are tied


def test_a_list_with_one_response_twice_is_no_conflict() -> None:
    twice = RankedList(
        id="l",
        prompt=make_prompt(user("q")),
        responses=(said("a"), said("b"), said("a")),
        ranks=(0, 1, 2),
    )
    assert find_conflicts(rows(twice)) == []


def test_unpaired_rows_conflict_when_one_calls_desirable_what_the_other_does_not() -> None:
    liked, disliked = (
        UnpairedRow(id=str(d), prompt=make_prompt(user("q")), response=said("a"), desirable=d)
        for d in (True, False)
    )
    assert find_conflicts(rows(liked, disliked)) == [(1, 2)]
    assert find_conflicts(rows(liked, liked)) == []


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("The red wool coat", "The blue wool coat", True),  # replaced
        ("The wool coat", "The red wool coat", True),  # added
        ("The wool coat!", "the wool coat", True),  # case and punctuation
        ("Yes", "No", False),  # nothing shared
        ("Yes it is", "No it isn", False),  # two words
        ("red wool coat", "coat wool red", False),
        ("可以机洗吗", "可以手洗吗", True),  # one character of five
        ("可以机洗", "不能手洗", False),
    ],
)
def test_one_word_apart(first: str, second: str, near: bool) -> None:
    assert one_word_apart(said(first), said(second)) is near
    assert one_word_apart(said(second), said(first)) is near


def test_words_are_runs_of_letters_and_single_characters() -> None:
    assert words_of("Wash IT_2 by-hand,\tnow!") == ["wash", "it_2", "by", "hand", "now"]
    assert words_of("“Don’t” — she said…") == ["don", "t", "she", "said"]
    assert words_of("Straße 可以wash") == ["strasse", "可", "以", "wash"]


@given(st.text() | st.text(alphabet="aB3_ ’“—…•é可\n\x1f\u00a0-"))
def test_words_are_those_of_the_pattern_whatever_the_shortcut(text: str) -> None:
    assert words_of(text) == WORD.findall(text.casefold())


def test_what_is_known_of_records_is_right_for_each_of_many_short_lived_ones() -> None:
    # were a key kept under the place in memory of a record that is gone, another would get it
    known = Known()
    for number in range(1000):
        found = pair(f"q {number}", "wash it cold", "wash it hot" if number % 2 else "boil all")
        assert known.key(found.prompt) == exact_key(found.prompt)
        assert known.one_word_apart(found) is bool(number % 2)


def test_responses_that_differ_in_their_tool_calls_are_not_near() -> None:
    calls = [
        (
            Message(
                role="assistant", content="Let me see.", tool_calls=(ToolCall(name=n, arguments=a),)
            ),
        )
        for n, a in (("search", '{"q": "wool"}'), ("book", '{"flight": 12}'))
    ]
    assert not one_word_apart(*calls)


def test_near_duplicates_are_looked_for_in_pairs() -> None:
    far = pair("q", "Wash it by hand", "Boil everything")
    assert find_near_duplicates(rows(far, pair("q", "wash it cold", "wash it hot"))) == [2]


def test_leaks_are_exact_or_normalised_and_never_both() -> None:
    train = rows(
        pair("Can I wash wool?", "a", "b"), pair("can i  WASH wool?", "a", "b"), pair("x", "a", "b")
    )
    test = rows(pair("other", "a", "b"), pair("Can I wash wool?", "c", "d"))
    found = {f.kind: f for f in find_leaks(train, test, "test.jsonl")}
    assert {kind: f.lines for kind, f in found.items()} == {"leak": (1,), "leak_normalised": (2,)}
    assert "line 1 here is line 2 there" in found["leak"].what
    assert "test.jsonl" in found["leak"].what


def test_prompts_with_another_system_turn_or_other_turns_do_not_leak() -> None:
    plain = Prompt(id="same", messages=(user("q"),))
    system = Prompt(id="same", messages=(Message(role="system", content="Be kind."), user("q")))
    longer = Prompt(id="same", messages=(user("q"), assistant("a"), user("r")))
    assert find_leaks(rows(plain), rows(system, longer), "t") == []


def test_problems_are_counted_by_kind_unusable_first_each_line_once() -> None:
    odd = Problem(kind="a_odd", what="odd", fix="Look", fatal=False)
    bad = Problem(kind="z_bad", what="bad", fix="Mend")
    found = find_problems(
        [
            Scanned(line=3, record=None, problems=(bad, bad)),
            Scanned(line=4, record=pair("q", "a", "b"), problems=(odd,)),
            Scanned(line=9, record=None, problems=(bad,)),
        ]
    )
    assert [(f.kind, f.lines) for f in found] == [("z_bad", (3, 9)), ("a_odd", (4,))]


def test_clean_rows_give_no_finding() -> None:
    assert (
        check_rows(rows(pair("q", "Wash it by hand", "Boil everything"), pair("r", "yes", "no")))
        == []
    )


@pytest.mark.parametrize(
    ("fields", "wins"),
    [
        ({"kind": "binary", "choice": 1}, [(1, 0)]),
        ({"kind": "scale", "grade": 2}, [(0, 1)]),
        ({"kind": "scale", "grade": 5}, [(1, 0)]),
        ({"kind": "scale", "grade": 4}, []),
        ({"kind": "tie"}, []),
        ({"kind": "ranking", "ranking": ((1,), (0,))}, [(1, 0)]),
        ({"kind": "ranking", "ranking": ((0, 1),)}, []),
    ],
)
def test_places_of_a_judgment_follow_its_verdict(
    fields: dict[str, Any], wins: list[tuple[int, int]]
) -> None:
    judgment = Judgment(id="j", comparison_id="c", rater=Rater(id="ann"), **fields)
    assert list(places_of(judgment, 2)) == wins
    assert is_tie(judgment) is (not wins)


def judged(name: str, *choices: int) -> list[Record]:
    shown = tuple(Response(id=t, prompt_id="p", messages=said(t)) for t in ("a", "b"))
    return [
        Comparison(id=name, prompt=make_prompt(user("q")), responses=shown),
        *(
            Judgment(id=str(n), comparison_id=name, kind="binary", choice=c, rater=Rater(id=str(n)))
            for n, c in enumerate(choices)
        ),
    ]


def test_judgments_of_one_comparison_decide_once_by_majority() -> None:
    assert list(decided(judged("c", 1, 0, 1))) == [(said("b"), said("a"))]
    assert list(decided(judged("c", 1, 0))) == []
    assert list(decided(judged("c", 1)[1:])) == []  # the comparison is in another file


def test_a_pair_made_from_judgments_in_the_file_is_not_counted_again() -> None:
    made, other = (pair("q", "b", "a", provenance=Provenance(comparison_id=c)) for c in "cd")
    assert list(decided([*judged("c", 1), made])) == [(said("b"), said("a"))]
    assert len(list(decided([*judged("c", 1), other]))) == 2


def test_check_command_says_clean_with_exit_0(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    path = write_pairs(tmp_path / "a.jsonl", ("q", "Wash it by hand", "Boil everything"))
    ran = run_cli("data", "check", path)
    assert (ran.code, ran.out.rstrip().endswith(": clean")) == (0, True)


def test_check_command_lists_leaks_and_repeats_with_exit_1(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    one, two = ("q one", "Wash it by hand", "Boil everything"), ("q two", "yes", "no")
    train = write_pairs(tmp_path / "train.jsonl", one, two, one)
    test = write_pairs(tmp_path / "test.jsonl", ("Q  two", "no", "yes"))
    found = tmp_path / "found.json"
    ran = run_cli("data", "check", train, "--against", test, "--json", found)
    assert ran.code == 1
    assert "duplicate: 1 rows, lines 3" in ran.out
    assert "leak_normalised: 1 rows, lines 2" in ran.out
    kept = json.loads(found.read_text())
    assert {f["kind"]: f["lines"] for f in kept["findings"]} == {
        "duplicate": [3],
        "leak_normalised": [2],
    }
    assert (kept["exit_code"], kept["rows"], kept["usable"]) == (1, 3, 3)


def test_check_command_names_a_bad_row_and_goes_on(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    path = write_pairs(tmp_path / "a.jsonl", ("q", "yes", "no"), ("r", "same", "same"))
    ran = run_cli("data", "check", path)
    assert ran.code == 1
    assert "1 rows, lines 2" in ran.out
    assert "2 rows" in ran.out.splitlines()[-1]


def test_check_command_calls_a_file_without_a_usable_row_unusable(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    path = write_pairs(tmp_path / "a.jsonl", ("r", "same", "same"))
    ran = run_cli("data", "check", path)
    assert ran.code == 2
    assert "unusable" in ran.out


def test_check_against_itself_is_refused(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "a.jsonl", ("q", "yes", "no"))
    with pytest.raises(DataError, match="the same file"):
        check_file(path, against=[path])
