import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.datasets.checks import check_file
from preftune.datasets.read import read_records
from preftune.datasets.split import check_disjoint, group_key, split_by_group, split_file
from preftune.datasets.write import dataset_hash
from preftune.errors import DataError, SettingsError
from preftune.types import (
    Comparison,
    Judgment,
    Prompt,
    Rater,
    Record,
    Response,
    assistant,
    make_prompt,
    user,
)

THIRDS = {"train": 0.8, "test": 0.1, "validation": 0.1}
sizes = st.lists(st.integers(1, 30), min_size=3, max_size=40)


def prompts(counts: list[int]) -> list[Record]:
    """One prompt per group, as often as its count says; the ids tell the rows apart."""
    return [
        Prompt(id=f"{group}-{copy}", messages=(user(f"question {group}"),))
        for group, count in enumerate(counts)
        for copy in range(count)
    ]


def part_ids(records: list[Record], seed: int = 0) -> dict[str, list[str]]:
    parts = split_by_group(records, fractions=THIRDS, seed=seed, key=group_key("prompt"))
    return {name: [record.id for record in part] for name, part in parts.items()}


@given(sizes, st.integers(0, 99))
def test_every_row_is_in_one_part_and_no_prompt_in_two(counts: list[int], seed: int) -> None:
    ids = part_ids(prompts(counts), seed)
    everywhere = sorted(i for part in ids.values() for i in part)
    assert everywhere == sorted(record.id for record in prompts(counts))
    groups = [{i.split("-")[0] for i in part} for part in ids.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(counts)
    assert all(groups)


@given(sizes, st.integers(0, 99))
def test_a_share_is_missed_by_at_most_half_the_largest_group(counts: list[int], seed: int) -> None:
    parts = part_ids(prompts(counts), seed)
    for name in ("test", "validation"):
        missed = abs(len(parts[name]) - 0.1 * sum(counts))
        one_group = len({i.split("-")[0] for i in parts[name]}) == 1
        assert missed <= max(counts) / 2 or one_group


@given(sizes, st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(counts: list[int], seed: int, random: Any) -> None:
    records = prompts(counts)
    shuffled = random.sample(records, len(records))
    first, second = part_ids(records, seed), part_ids(shuffled, seed)
    assert {name: set(ids) for name, ids in first.items()} == {
        name: set(ids) for name, ids in second.items()
    }


def test_rows_keep_their_order_within_a_part() -> None:
    records = prompts([1] * 50)
    order = {record.id: place for place, record in enumerate(records)}
    for ids in part_ids(records).values():
        assert [order[i] for i in ids] == sorted(order[i] for i in ids)


def test_equal_groups_give_the_shares_asked_for_exactly() -> None:
    assert {name: len(ids) for name, ids in part_ids(prompts([1] * 100)).items()} == {
        "train": 80,
        "test": 10,
        "validation": 10,
    }


def test_five_groups_still_give_every_part_one() -> None:
    got = {name: len(ids) for name, ids in part_ids(prompts([1] * 5)).items()}
    assert got == {"train": 3, "test": 1, "validation": 1}


def test_another_seed_gives_another_split() -> None:
    records = prompts([1] * 100)
    assert part_ids(records, 0) == part_ids(records, 0)
    assert part_ids(records, 0)["test"] != part_ids(records, 1)["test"]


def test_rows_added_to_a_group_follow_it() -> None:
    before, after = part_ids(prompts([1] * 100)), part_ids(prompts([1] * 99 + [2]))
    home = next(name for name, ids in before.items() if "99-0" in ids)
    assert {"99-0", "99-1"} <= set(after[home])


def test_fewer_groups_than_parts_is_refused() -> None:
    with pytest.raises(DataError, match="2 groups for 3 parts"):
        part_ids(prompts([5, 5]))


@pytest.mark.parametrize("fractions", [{"train": 1.0}, {"a": 0.5, "b": 0.4}, {"a": 1.2, "b": -0.2}])
def test_fractions_that_make_no_sense_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="add up to 1"):
        split_by_group(prompts([1] * 9), fractions=fractions, seed=0, key=group_key("prompt"))


def test_prompt_key_ignores_case_and_white_space_only() -> None:
    key = group_key("prompt")
    asked = [make_prompt(user(text)) for text in ("Wash  Wool?\n", "wash wool?", "wash wool")]
    assert key(asked[0]) == key(asked[1]) != key(asked[2])


def test_first_turn_key_keeps_a_conversation_together() -> None:
    start = make_prompt(user("q"))
    later = make_prompt(user("q"), assistant("a"), user("and then?"))
    assert group_key("first-turn")(start) == group_key("first-turn")(later)
    assert group_key("prompt")(start) != group_key("prompt")(later)


def test_tag_key_takes_the_one_tag_with_the_prefix() -> None:
    key = group_key("tag:debate=")
    assert key(make_prompt(user("q"), tags=("en", "debate=tea"))) == "debate=tea"
    for tags in (("en",), ("debate=tea", "debate=milk")):
        with pytest.raises(DataError, match=rf"has {len(tags) * 2 - 2} tags"):
            key(make_prompt(user("q"), tags=tags))


@pytest.mark.parametrize("by", ["row", "tag:", "tag", ""])
def test_an_unknown_way_to_group_is_refused(by: str) -> None:
    with pytest.raises(SettingsError, match="Use prompt, first-turn or tag:PREFIX"):
        group_key(by)


def test_judgments_and_responses_go_where_their_prompt_goes() -> None:
    asked = make_prompt(user("q"))
    shown = tuple(Response(id=i, prompt_id=asked.id, messages=(assistant(i),)) for i in "ab")
    comparison = Comparison(id="c", prompt=asked, responses=shown)
    judgment = Judgment(id="j", comparison_id="c", kind="tie", rater=Rater(id="ann"))
    key = group_key("prompt", [comparison])
    assert key(judgment) == key(comparison) == key(shown[0]) == key(asked)
    with pytest.raises(DataError, match="j has no prompt in this file"):
        group_key("prompt")(judgment)


def test_a_prompt_in_two_parts_is_found() -> None:
    asked = make_prompt(user("q"))
    with pytest.raises(DataError, match=r"is in train and in test"):
        check_disjoint({"train": [asked], "test": [asked]}, group_key("prompt"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"prompt": f"Question {n // 2}?", "chosen": f"Good answer {n}", "rejected": "Go away"}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_split_file_writes_parts_that_add_up_and_do_not_leak(tmp_path: Path, source: Path) -> None:
    done = split_file(source, tmp_path / "parts", fractions=THIRDS, seed=3)
    whole = read_records(source).records
    parts = {
        name: read_records(tmp_path / "parts" / p.file).records for name, p in done.parts.items()
    }
    assert {name: len(records) for name, records in parts.items()} == {
        "train": 48,
        "test": 6,
        "validation": 6,
    }
    assert sorted(r.id for records in parts.values() for r in records) == sorted(
        r.id for r in whole
    )
    leaks = check_file(
        tmp_path / "parts/train.jsonl",
        against=[tmp_path / "parts/test.jsonl", tmp_path / "parts/validation.jsonl"],
    )
    assert [f for f in leaks.findings if f.kind.startswith("leak")] == []
    kept = json.loads((tmp_path / "parts/split.json").read_text())
    assert kept["seed"] == 3
    assert kept["dataset_hash"] == dataset_hash(whole)
    assert kept["parts"]["test"]["dataset_hash"] == dataset_hash(parts["test"])
    assert "| validation | 6 | 3 | 10.0% | 10.0% |" in (tmp_path / "parts/card.md").read_text()


def test_split_file_by_a_tag_that_would_leak_a_prompt_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    rows = [
        {
            "type": "prompt",
            "id": str(n),
            "messages": [{"role": "user", "content": "same"}],
            "tags": [f"t{n}"],
        }
        for n in range(4)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"is in .* and in "):
        split_file(source, tmp_path / "parts", fractions={"train": 0.5, "test": 0.5}, by="tag:t")
    assert not (tmp_path / "parts").exists()


def test_split_command_prints_the_parts(
    tmp_path: Path, source: Path, run_cli: Callable[..., Any]
) -> None:
    ran = run_cli("data", "split", source, "--out", tmp_path / "parts", "--test", "0.2")
    assert ran.code == 0, ran.err
    assert ran.out.split("\n")[2].split() == ["test", "12", "6", "20.0%", "20.0%"]
    again = run_cli("data", "split", source, "--out", tmp_path / "parts")
    assert again.code == 2
    assert "is not empty" in again.err


def test_split_command_stops_at_a_bad_row_and_writes_nothing(
    tmp_path: Path, source: Path, run_cli: Callable[..., Any]
) -> None:
    source.write_text(source.read_text() + '{"prompt": "q", "chosen": "a", "rejected": "a"}\n')
    ran = run_cli("data", "split", source, "--out", tmp_path / "parts")
    assert ran.code == 2
    assert "pairs.jsonl:61:" in ran.err
    assert not (tmp_path / "parts").exists()
