import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import sentence_bleu

from preftune.comparisons.rules import (
    Rule,
    bleu,
    judge_by_rule,
    longest_common_subsequence,
    pair_responses,
    rouge_l,
    rouge_n,
    score,
)
from preftune.errors import DataError, SettingsError
from preftune.types import Comparison, Prompt, Response, assistant, make_prompt, user

words = st.lists(st.sampled_from(["a", "the", "Bear", "40", "no,", "é", "—"]), max_size=15)
texts = st.one_of(words.map(" ".join), st.text(max_size=40))
PROMPT = make_prompt(user("can the bear go in the washer ?"))


def response(text: str, *, generator: str = "base", prompt: Prompt = PROMPT) -> Response:
    return Response(
        id=f"{generator}-{text}",
        prompt_id=prompt.id,
        messages=(assistant(text),),
        generator=generator,
    )


def comparison(first: str, second: str) -> Comparison:
    return Comparison(id="c", prompt=PROMPT, responses=(response(first), response(second)))


@given(texts, texts)
def test_rouge_equals_the_reference_package(reply: str, reference: str) -> None:
    scores = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, reply)
    assert rouge_n(reply, reference, 1) == pytest.approx(scores["rouge1"].fmeasure)
    assert rouge_n(reply, reference, 2) == pytest.approx(scores["rouge2"].fmeasure)
    assert rouge_l(reply, reference) == pytest.approx(scores["rougeL"].fmeasure)


def test_rouge_matches_hand_calculation() -> None:
    # "the bear sat" and "the big bear sat": 3 of 3 and 3 of 4 words, F = 2·1·.75 / 1.75
    assert rouge_n("the bear sat", "the big bear sat", 1) == pytest.approx(6 / 7)
    # runs of two: "bear sat" shared, 1 of 2 and 1 of 3
    assert rouge_n("the bear sat", "the big bear sat", 2) == pytest.approx(0.4)
    assert rouge_l("sat the bear", "the big bear sat") == pytest.approx(4 / 7)


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_longest_common_subsequence_equals_the_table(first: str, second: str) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            longest = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else longest
    assert longest_common_subsequence(first, second) == table[-1][-1]


def test_bleu_is_sacrebleus_sentence_bleu_and_100_for_the_reference_itself() -> None:
    reply, reference = "the bear sat on the mat today", "the bear sat on a mat today"
    assert bleu(reply, [reference]) == pytest.approx(sentence_bleu(reply, [reference]).score)
    assert bleu(reference, [reference]) == pytest.approx(100.0)


def test_several_references_count_by_the_best_match() -> None:
    rule = Rule(rule="rouge-1")
    assert score("warm water", rule, ["cold air", "warm water"]) == 1.0
    assert score("warm water\n", Rule(rule="exact"), ["cold air", "warm water"]) == 1.0


def test_judgment_names_the_winner_and_keeps_both_scores() -> None:
    (found,) = judge_by_rule([comparison("ab", "abcd")], Rule(rule="length"))
    assert (found.kind, found.choice, found.scores) == ("binary", 1, (2.0, 4.0))
    assert (found.rater.kind, found.rater.id) == ("rule", "length")
    (shorter,) = judge_by_rule([comparison("ab", "abcd")], Rule(rule="length", prefer="lower"))
    assert (shorter.choice, shorter.rater.id) == (0, "length lower")


def test_equal_scores_are_a_tie_and_tie_within_widens_it() -> None:
    assert judge_by_rule([comparison("ab", "cd")], Rule(rule="length"))[0].kind == "tie"
    near = judge_by_rule([comparison("ab", "abcd")], Rule(rule="length", tie_within=2))
    assert (near[0].kind, near[0].choice, near[0].scores) == ("tie", None, (2.0, 4.0))


def test_regex_prefers_the_response_that_matches() -> None:
    found = judge_by_rule([comparison("yes", "sorry , no")], Rule(rule="regex", pattern="sorry"))
    assert (found[0].choice, found[0].scores) == (1, (0.0, 1.0))


@given(texts, texts, texts, st.sampled_from(["bleu", "rouge-1", "rouge-2", "rouge-l", "exact"]))
def test_swapping_the_sides_swaps_the_verdict(a: str, b: str, reference: str, name: str) -> None:
    rule = Rule(rule=name)  # type: ignore[arg-type]  # drawn from the names of the metrics
    known = {PROMPT.id: [reference]}
    shown = comparison(a, b)
    one, other = judge_by_rule([shown, shown.swap()], rule, known)
    assert one.scores == other.scores[::-1]
    assert (one.kind, {one.choice, other.choice}) in [("tie", {None}), ("binary", {0, 1})]


def test_missing_and_superfluous_references_are_refused() -> None:
    with pytest.raises(DataError, match=f"no reference for prompt {PROMPT.id}"):
        judge_by_rule([comparison("a", "b")], Rule(rule="rouge-l"))
    with pytest.raises(SettingsError, match="reads no references"):
        judge_by_rule([comparison("a", "b")], Rule(rule="length"), {PROMPT.id: ["a"]})


def test_rule_refuses_patterns_that_cannot_be_used() -> None:
    with pytest.raises(SettingsError, match="needs a pattern"):
        Rule(rule="regex")
    with pytest.raises(SettingsError, match="takes no pattern"):
        Rule(rule="length", pattern="x")
    with pytest.raises(SettingsError, match="Correct the pattern"):
        Rule(rule="regex", pattern="(")


def test_rule_refuses_three_responses() -> None:
    three = Comparison(id="c3", prompt=PROMPT, responses=tuple(response(t) for t in "abc"))
    with pytest.raises(DataError, match="comparison c3: 3 responses"):
        judge_by_rule([three], Rule(rule="length"))


def test_responses_pair_by_prompt_and_by_sample() -> None:
    other = make_prompt(user("and the dryer ?"))
    first = [response("1"), response("2"), response("3", prompt=other)]
    second = [response("C", prompt=other), response("A"), response("B")]
    found = pair_responses([PROMPT, other], first, second)
    shown = [tuple(r.messages[0].content for r in c.responses) for c in found]
    assert shown == [("1", "A"), ("2", "B"), ("3", "C")]
    assert len({c.id for c in found}) == 3


def test_unequal_sets_of_responses_are_refused() -> None:
    with pytest.raises(DataError, match="2 responses in the first set, 1 in the second"):
        pair_responses([PROMPT], [response("1"), response("2")], [response("A")])
    with pytest.raises(DataError, match="its text is unknown"):
        pair_responses([], [response("1")], [response("A")])
