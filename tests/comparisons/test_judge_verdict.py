import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.comparisons.judge_world import LABELS

from preftune.comparisons.judging.rubric import SHIPPED, Rubric, read_rubric
from preftune.comparisons.judging.verdict import Verdict, from_logprobs, from_text, verdict_of
from preftune.errors import SettingsError
from preftune.responses.chat_client import ChatAnswer


def rubric(**fields: object) -> Rubric:
    known = {"name": "sums", "instructions": "Say which.", "criteria": ("Correct.",)}
    return Rubric(**{**known, **fields})  # type: ignore[arg-type]  # fields of the test's choice


EXPLAINED = rubric(explain=True, ties=True)
GRADED = rubric(scale=7, explain=True)


@pytest.mark.parametrize(
    ("text", "choice"), [("A", 0), ("B", 1), (" A\n", 0), ("\n\nB  ", 1), ("\tA", 0)]
)
def test_a_label_alone_is_a_verdict(text: str, choice: int) -> None:
    assert from_text(text, LABELS) == Verdict(label="AB"[choice], choice=choice)


@pytest.mark.parametrize(
    "text",
    ["", "C", "a", "A.", "**A**", "A is better", "A\nB", "Answer A", "TIE", "VERDICT: A", "[[A]]"],
)
def test_anything_else_is_no_verdict(text: str) -> None:
    assert from_text(text, LABELS) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("VERDICT: A", "A"),
        ("B says VERDICT: B and is wrong.\nVERDICT: A", "A"),
        ("VERDICT: B\nNo, I was misled.\nVERDICT: A\n", "A"),
        ("=== end of answer B 0 ===\nVERDICT: B\n\nVERDICT: TIE", "TIE"),
    ],
)
def test_only_the_last_line_is_the_verdict(text: str, label: str) -> None:
    found = from_text(text, EXPLAINED)
    assert found is not None
    assert (found.label, found.choice) == (label, {"A": 0, "TIE": None}[label])


@pytest.mark.parametrize(
    "text",
    [
        "VERDICT: A because it is right",
        "VERDICT: A\nI hope this helps.",
        "It says: VERDICT: A",
        "verdict: A",
        "VERDICT: AB",
        "VERDICT:A",
        "> VERDICT: A",
        "VERDICT: A or B",
        "VERDICT: ",
    ],
)
def test_a_last_line_that_is_not_exact_is_no_verdict(text: str) -> None:
    assert from_text(text, EXPLAINED) is None


@given(st.text(), st.sampled_from(["VERDICT: A", "VERDICT: B", "VERDICT: TIE", ""]), st.text())
def test_a_verdict_is_always_the_whole_last_line(before: str, mark: str, after: str) -> None:
    text = f"{before}\n{mark}{after}"
    found = from_text(text, EXPLAINED)
    last = text.strip().rpartition("\n")[2]
    if found is None:
        assert last not in {f"VERDICT: {label}" for label in EXPLAINED.labels}
    else:
        assert last == f"VERDICT: {found.label}"


def test_a_grade_is_one_of_seven_and_four_only_with_ties() -> None:
    found = [from_text(f"VERDICT: {g}", GRADED) for g in range(10)]
    assert [verdict.grade for verdict in found if verdict is not None] == [1, 2, 3, 5, 6, 7]
    equal = from_text("VERDICT: 4", rubric(scale=7, explain=True, ties=True))
    assert equal == Verdict(label="4", grade=4)
    assert equal.kind == "scale"


def test_log_probabilities_are_weighed_over_the_labels_alone() -> None:
    # e^-0.1 = .904837, e^-2.4 = .090718; .904837 / .995555 = .908877; "The" is no label
    found = from_logprobs((("A", -0.1), ("B", -2.4), ("The", -6.0)), LABELS)
    assert found is not None
    assert (found.label, found.choice) == ("A", 0)
    assert found.probabilities == pytest.approx((0.908877, 0.091123), abs=1e-6)


def test_spellings_of_a_label_that_differ_in_white_space_are_added() -> None:
    # A: .3 + .25 = .55 against B .45
    listed = ((" A", math.log(0.3)), ("B", math.log(0.45)), ("A", math.log(0.25)))
    found = from_logprobs(listed, LABELS)
    assert found is not None
    assert found.label == "A"
    assert found.probabilities == pytest.approx((0.55, 0.45))


def test_a_tie_counts_half_for_either_side() -> None:
    listed = tuple((label, math.log(p)) for label, p in (("TIE", 0.5), ("A", 0.4), ("B", 0.1)))
    found = from_logprobs(listed, rubric(ties=True))
    assert found is not None
    assert (found.label, found.choice, found.kind) == ("TIE", None, "tie")
    assert found.probabilities == pytest.approx((0.65, 0.35))


@pytest.mark.parametrize(
    "listed",
    [
        (),
        (("The", -0.1), ("A", -3.0)),  # another word was likelier by far
        (("A", -0.7), ("B", -0.7)),  # nothing to choose
        (("a", -0.1), ("b", -2.0)),
    ],
)
def test_log_probabilities_that_choose_no_label_leave_it_to_the_text(
    listed: tuple[tuple[str, float], ...],
) -> None:
    assert from_logprobs(listed, LABELS) is None
    answer = ChatAnswer(key="k", text="B", logprobs=listed)
    assert verdict_of(answer, LABELS) == Verdict(label="B", choice=1)


def test_explained_verdicts_never_come_from_the_first_token() -> None:
    answer = ChatAnswer(key="k", text="A is nice.\nVERDICT: B", logprobs=(("A", -0.01),))
    found = verdict_of(answer, EXPLAINED)
    assert found is not None
    assert found.label == "B"


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.floats(-30, 0)), max_size=6))
def test_probabilities_of_the_two_sides_sum_to_one(listed: list[tuple[str, float]]) -> None:
    found = from_logprobs(listed, LABELS)
    if found is not None:
        assert sum(found.probabilities) == pytest.approx(1.0)
        assert (max(found.probabilities) == found.probabilities[0]) == (found.choice == 0)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rubrics_are_read_and_rank_correctness(name: str) -> None:
    found = read_rubric(name)
    assert (found.name, found.judged) == (name, name)
    assert any("correct" in line.lower() or "false" in line for line in found.criteria)
    assert found.hash != read_rubric(SHIPPED[SHIPPED.index(name) - 1]).hash


def test_any_change_of_a_rubric_changes_its_hash() -> None:
    changed = [
        rubric(),
        rubric(ties=True),
        rubric(explain=True),
        rubric(scale=7),
        rubric(steps=("metrics",)),
        rubric(criteria=("Correct!",)),
        rubric(dimension="tone"),
    ]
    assert len({r.hash for r in changed}) == len(changed)
    assert rubric().hash == rubric().hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ninstructions: y\ncriteria: [z]\nscal: 7", "unknown setting 'scal'"),
        ("name: x\ninstructions: y\ncriteria: []", "criteria"),
        ("name: x\ninstructions: y\ncriteria: [z]\nscale: 5", "scale"),
        ("name: x\ninstructions: y\ncriteria: [z]\nverdict_pattern: '(A'", "verdict_pattern"),
        ("name: x\ninstructions: y\ncriteria: [z]\nverdict_pattern: 'A|B'", "groups"),
        ("name: x\ninstructions: y\ncriteria: [z]\nsteps: [metrics, metrics]", "step twice"),
    ],
)
def test_a_wrong_rubric_file_is_named(
    tmp_path_factory: pytest.TempPathFactory, text: str, said: str
) -> None:
    path = tmp_path_factory.mktemp("rubric") / "own.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"own\.yaml") as raised:
        read_rubric(str(path))
    assert said in str(raised.value)


def test_an_unknown_rubric_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no such file\. Use one of helpful, harmless"):
        read_rubric("helpfull")
