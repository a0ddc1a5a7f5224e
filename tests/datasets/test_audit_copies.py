"""Contradictions, circles, copies and leaks, each planted by hand."""

from pathlib import Path

import pytest

from preftune.datasets.audit_copies import (
    copies_section,
    find_cycles,
    find_equal,
    find_near_pairs,
    leak_section,
)
from preftune.datasets.audit_material import Material, material_of
from preftune.datasets.scanned import Scanned
from preftune.datasets.write import write_records
from preftune.errors import DataError
from preftune.types import PreferencePair, RankedList, assistant, make_prompt, user

LONG = "the coat may be washed by hand in cold water with a little wool soap and no spin at all"


def pair(asked: str, chosen: str, rejected: str, dimension: str = "overall") -> PreferencePair:
    return PreferencePair(
        id=f"{asked}/{chosen}/{rejected}/{dimension}"[:120],
        prompt=make_prompt(user(asked)),
        chosen=(assistant(chosen),),
        rejected=(assistant(rejected),),
        dimension=dimension,
    )


def material(*pairs: PreferencePair) -> Material:
    rows = [Scanned(line=n, record=record) for n, record in enumerate(pairs, start=1)]
    return material_of(rows, source="pairs.jsonl")


def lines(found: Material) -> dict[str, tuple[int, ...]]:
    return {finding.kind: finding.lines for finding in copies_section(found).findings}


def test_a_circle_of_three_is_found_and_a_chain_is_not() -> None:
    found = material(
        pair("q", "A", "B"), pair("q", "B", "C"), pair("q", "C", "A"), pair("q", "A", "D")
    )
    assert find_cycles(found.pairs) == {1, 2, 3}
    chain = material(pair("q", "A", "B"), pair("q", "B", "C"), pair("q", "A", "C"))
    assert find_cycles(chain.pairs) == set()


def test_one_odd_verdict_is_told_not_every_row_it_bends_into_a_circle() -> None:
    order = "ABCDE"
    rows = [pair("q", a, b) for n, a in enumerate(order) for b in order[n + 1 :]]
    rows[3] = pair("q", "E", "A")  # was A over E
    found = material(*rows)
    assert len(find_cycles(found.pairs)) == 10
    assert lines(found)["cycle"] == (4,)


def test_a_circle_needs_one_prompt_and_one_dimension() -> None:
    found = material(
        pair("q", "A", "B"), pair("q", "B", "C"), pair("r", "C", "A"), pair("q", "C", "A", "tone")
    )
    assert find_cycles(found.pairs) == set()


def test_a_contradiction_is_a_conflict_and_no_circle() -> None:
    found = lines(material(pair("q", "A", "B"), pair("q", "B", "A"), pair("q", "B", "C")))
    assert found["conflict"] == (1, 2)
    assert found["cycle"] == ()


def test_responses_that_differ_in_case_and_space_alone_are_equal() -> None:
    found = material(pair("q", "Yes,  do.", "yes, do."), pair("q", "yes", "no"))
    assert list(find_equal(found.pairs, found.words)) == [1]


def test_near_copies_of_a_row_are_found_whichever_way_round() -> None:
    found = material(
        pair(f"{LONG} ? tell me", LONG, f"never {LONG[5:40]} or so they say"),
        pair(f"{LONG} ? tell us", f"never {LONG[5:40]} or so they say", f"{LONG} ok"),
        pair("another question altogether about it", LONG, f"never {LONG[5:40]} or so they say"),
        pair(f"{LONG} ? tell me", LONG, "something else entirely is said on this side"),
    )
    assert find_near_pairs(found.pairs, found.words) == {2}


def test_exact_repeats_and_conflicts_are_no_near_copies() -> None:
    found = material(pair("q", LONG, "no"), pair("q", LONG, "no"), pair("q", "no", LONG))
    assert find_near_pairs(found.pairs, found.words) == set()
    assert lines(found)["duplicate"] == (2,)


def test_pairs_of_one_ranked_list_are_no_copies_of_each_other() -> None:
    ranked = RankedList(
        id="r",
        prompt=make_prompt(user("q")),
        responses=tuple((assistant(f"{LONG} {end}"),) for end in ("a", "b", "c")),
        ranks=(1, 2, 3),
    )
    found = material_of([Scanned(line=1, record=ranked)], source="x")
    assert len(found.pairs) == 3
    assert find_near_pairs(found.pairs, found.words) == set()


def test_leaks_are_told_by_kind_and_line(tmp_path: Path) -> None:
    found = material(
        pair("May I wash it ?", "yes", "no"),
        pair("may i  WASH it ?", "yes", "no"),
        pair(f"{LONG} right ?", "yes", "no"),
        pair("something new", LONG.upper(), "no"),
        pair("all new", "yes", "no"),
    )
    held_out = [pair("May I wash it ?", "maybe", LONG), pair(f"{LONG} wrong ?", "maybe", "never")]
    write_records(tmp_path / "test.jsonl", held_out)
    section = leak_section(found, [tmp_path / "test.jsonl"])
    told = {finding.kind: (finding.lines, finding.verdict) for finding in section.findings}
    assert told == {
        "leak": ((1,), "stop"),
        "leak_normalised": ((2,), "stop"),
        "leak_near": ((3,), "look"),
        "leak_response": ((4,), "look"),
    }


def test_no_held_out_file_is_said_and_a_useless_one_refused(tmp_path: Path) -> None:
    found = material(pair("q", "yes", "no"))
    assert "Give --against" in leak_section(found, []).text
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "q", "chosen": "same", "rejected": "same"}\n')
    with pytest.raises(DataError, match="no usable row"):
        leak_section(found, [broken])
