import pytest

from preftune.errors import DataError
from preftune.evaluation.regression import check_responses, paired_check
from preftune.types import Response, assistant

Items = dict[tuple[str, int], bool]


def items(*passed: bool) -> Items:
    return {(f"p{place}", 0): ok for place, ok in enumerate(passed)}


def test_lost_and_gained_are_counted_item_by_item() -> None:
    found = paired_check(
        "facts", baseline=items(True, True, False, False), candidate=items(True, False, True, True)
    ).overall
    assert (found.difference.lost, found.difference.gained, found.difference.n) == (1, 2, 4)
    assert found.difference.difference == 0.25
    assert (found.baseline_frac, found.candidate_frac, found.at_risk) == (0.5, 0.75, 2)
    assert found.p_value == 1.0  # 1 against 2: 2 * P(Bin(3, 1/2) <= 1) = 1


def test_the_table_of_the_field_holds_through_the_check() -> None:
    baseline = items(*[True] * 11, *[False] * 3, *[True] * 286)
    candidate = items(*[False] * 11, *[True] * 3, *[True] * 286)
    found = paired_check("facts", baseline=baseline, candidate=candidate).overall
    assert found.difference.low == pytest.approx(-0.047025, abs=5e-5)
    assert found.p_value == pytest.approx(0.057373, abs=5e-7)


def test_prompts_of_one_fact_are_one_cluster() -> None:
    baseline = {(f"{fact}-{word}", 0): True for fact in "abcdef" for word in "xy"}
    candidate = {item: item[0][0] != "a" for item in baseline}
    alone = paired_check("facts", baseline=baseline, candidate=candidate).overall.difference
    grouped = paired_check(
        "facts",
        baseline=baseline,
        candidate=candidate,
        clusters={prompt: prompt[0] for prompt, _ in baseline},
    ).overall.difference
    assert (alone.clusters, grouped.clusters) == (12, 6)
    assert grouped.low < alone.low
    assert grouped.difference == alone.difference


def test_slices_are_counted_apart_with_holms_correction() -> None:
    baseline, candidate = items(*[True] * 12), items(*[False] * 6, *[True] * 6)
    tags = {f"p{n}": ["danger"] if n < 6 else ["fact", "fact"] for n in range(12)}
    check = paired_check("safe", baseline=baseline, candidate=candidate, tags=tags)
    assert [(s.tag, s.difference.lost, s.difference.n) for s in check.slices] == [
        ("danger", 6, 6),
        ("fact", 0, 6),
    ]
    danger = check.slice("danger")
    assert danger is not None
    assert danger.p_value == pytest.approx(2 / 64)
    assert danger.p_holm == pytest.approx(4 / 64)
    assert check.slice("") is check.overall
    assert check.slice("unknown") is None


def test_where_the_baseline_fails_there_is_nothing_to_lose() -> None:
    found = paired_check("safe", baseline=items(False, False, True), candidate=items(*[True] * 3))
    assert found.overall.at_risk == 1


def test_items_of_one_side_only_are_refused() -> None:
    with pytest.raises(DataError, match="1 items on one side only"):
        paired_check("facts", baseline=items(True, True), candidate=items(True))
    with pytest.raises(DataError, match="both are empty"):
        paired_check("facts", baseline={}, candidate={})


def test_responses_are_checked_sample_by_sample() -> None:
    responses = [
        Response(id=str(n), prompt_id=prompt, messages=(assistant(text),))
        for n, (prompt, text) in enumerate([("p", "yes"), ("q", "no"), ("p", "no")])
    ]
    found = check_responses(responses, lambda r: r.messages[0].content == "yes")
    assert found == {("p", 0): True, ("q", 0): False, ("p", 1): False}
