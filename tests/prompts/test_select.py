"""Prompts to label: shares as asked, rare slices filled, what is held out never offered."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prompts.logs import prompts_in

from preftune.errors import DataError, RowError, SettingsError
from preftune.prompts.dedupe import Group, Member, dedupe_file
from preftune.prompts.select import (
    SelectSettings,
    read_groups,
    select,
    select_file,
    slice_of,
)
from preftune.prompts.similar import content_key
from preftune.records import encode
from preftune.stats.intervals import wilson
from preftune.types import Prompt, make_prompt, user


def asked(text: str, times: int = 1, *tags: str) -> Prompt:
    return make_prompt(user(text), tags=(*tags, f"seen:{times}"))


def write(path: Path, prompts: list[Prompt]) -> Path:
    path.write_bytes(b"".join(map(encode, prompts)))
    return path


def stock(sizes: dict[str, int], times: dict[str, int]) -> list[Prompt]:
    return [
        asked(f"{name} {n}", times[name], f"kind:{name}")
        for name, size in sizes.items()
        for n in range(size)
    ]


@pytest.mark.parametrize(
    ("traffic_weight", "shares"),
    [
        (1.0, {"often": 90, "rare": 10}),  # 100 x 9 to 100 x 1
        (0.5, {"often": 75, "rare": 25}),  # 100 x 3 to 100 x 1
        (0.0, {"often": 50, "rare": 50}),
    ],
)
def test_slices_share_by_traffic_to_the_power_asked_for(
    traffic_weight: float, shares: dict[str, int]
) -> None:
    prompts = stock({"often": 100, "rare": 100}, {"often": 9, "rare": 1})
    s = SelectSettings(n=100, by="kind:", traffic_weight=traffic_weight)
    found = select(prompts, s)
    assert {one.name.removeprefix("kind:"): one.chosen for one in found.slices} == shares
    often, rare = found.slices
    assert (often.traffic_frac, rare.traffic_frac) == (0.9, 0.1)
    assert often.chosen_frac == shares["often"] / 100


def test_rare_slices_are_guaranteed_and_those_too_small_are_said(tmp_path: Path) -> None:
    sizes = {"often": 200, "rare": 30, "tiny": 3}
    source = write(tmp_path / "p.jsonl", stock(sizes, {"often": 50, "rare": 1, "tiny": 1}))
    s = SelectSettings(n=60, by="kind:", min_per_slice=10, traffic_weight=1.0)
    report = select_file(source, tmp_path / "out.jsonl", s)
    counts = {one.name: one.chosen for one in report.slices}
    assert counts == {"kind:often": 47, "kind:rare": 10, "kind:tiny": 3}
    assert [one.name for one in report.unfilled] == ["kind:tiny"]


def test_within_a_slice_the_chance_grows_with_traffic() -> None:
    # one prompt asked 9 times and nine asked once: drawn first in half of all seeds
    prompts = [asked("often", 9), *(asked(f"once {n}") for n in range(9))]
    first = Counter(
        min(select(prompts, SelectSettings(n=1, traffic_weight=1.0, seed=seed)).chosen)
        for seed in range(1000)
    )
    bounds = wilson(first[prompts[0].id], 1000, level=0.999)
    assert bounds.low < 0.5 < bounds.high


def test_same_seed_same_choice_whatever_the_order() -> None:
    prompts = stock({"a": 50, "b": 50}, {"a": 2, "b": 1})
    s = SelectSettings(n=20, by="kind:", held_out=0.2)
    one, other = select(prompts, s), select(prompts[::-1], s)
    assert (one.chosen, one.held_out) == (other.chosen, other.held_out)
    another = select(prompts, SelectSettings(n=20, by="kind:", held_out=0.2, seed=1))
    assert another.chosen != one.chosen


def test_held_out_share_is_met_in_every_slice() -> None:
    prompts = stock({"a": 100, "b": 40, "c": 10}, {"a": 1, "b": 1, "c": 1})
    found = select(prompts, SelectSettings(n=50, by="kind:", held_out=0.1))
    assert [one.held_out for one in found.slices] == [10, 4, 1]
    assert [one.available for one in found.slices] == [90, 36, 9]


GROUPED = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["x", "X ", " x", "y", "z"]), st.integers(1, 9)
    ),
    min_size=2,
    max_size=20,
)


@given(GROUPED, st.sampled_from([0.0, 0.3, 0.6]), st.integers(0, 3), st.randoms())
def test_what_is_held_out_or_excluded_is_never_chosen_even_by_near_duplicates(
    rows: list[tuple[str, str, int]], held_out: float, seed: int, rng: Any
) -> None:
    prompts = list(
        {
            p.id: p
            for n, (k, text, t) in enumerate(rows)
            for p in [asked(f"{text}{n % 4}", t, f"kind:{k}")]
        }.values()
    )
    pairs = [rng.sample(prompts, 2) for _ in range(2 if len(prompts) > 1 else 0)]
    groups = [
        Group(kept=a.id, seen=2, dropped=(Member(id=b.id, seen=1, likeness=0.9, exact=False),))
        for a, b in pairs
    ]
    excluded = prompts[:1] if not held_out else []
    s = SelectSettings(n=len(prompts), by="kind:", held_out=held_out, seed=seed)
    found = select(prompts, s, exclude=excluded, groups=groups)
    chosen = [p for p in prompts if p.id in found.chosen]
    closed = [p for p in prompts if p.id in found.held_out] + excluded
    assert not found.chosen & {p.id for p in closed}
    assert not set(map(content_key, chosen)) & set(map(content_key, closed))
    assert all((a.id in found.chosen) == (b.id in found.chosen) for a, b in pairs)
    assert len(found.chosen) + len(found.held_out) + found.excluded == len(prompts)


def test_near_duplicate_of_a_held_out_prompt_is_not_offered_later(tmp_path: Path) -> None:
    text = "may i put my old red wool socks in the washer at forty degrees"
    monday = write(tmp_path / "monday.jsonl", [asked(text, 5), asked(f"{text} pls", 2)])
    dedupe_file(monday, tmp_path / "unique.jsonl", near=0.8)
    # the held-out file has the one that was kept, tuesday's log the one that was dropped
    held = prompts_in(tmp_path / "unique.jsonl")
    assert len(held) == 1
    tuesday = write(tmp_path / "tuesday.jsonl", [asked(f"{text} pls"), asked("something else")])
    s = SelectSettings(n=2)
    found = select_file(
        tuesday,
        tmp_path / "label.jsonl",
        s,
        exclude=tmp_path / "unique.jsonl",
        groups=tmp_path / "unique.groups.jsonl",
    )
    assert [p.messages[0].content for p in prompts_in(tmp_path / "label.jsonl")] == [
        "something else"
    ]
    assert (found.excluded, found.chosen, found.asked_for) == (1, 1, 2)


def test_slice_is_the_tags_with_the_prefix() -> None:
    prompt = asked("hi", 1, "kind:b", "kind:a", "other")
    assert slice_of(prompt, "kind:") == "kind:a + kind:b"
    assert slice_of(prompt, "channel:") == "(no tag)"
    assert slice_of(prompt, "") == "all"
    assert slice_of(prompt, "seen:") == "(no tag)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 5, "min_per_slice": 3}, "take 6"),
        ({"n": 5, "held_out": 0.5, "exclude": True}, "give one"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    source = write(tmp_path / "p.jsonl", stock({"a": 9, "b": 9}, {"a": 1, "b": 1}))
    exclude = write(tmp_path / "x.jsonl", [asked("x")]) if change.pop("exclude", False) else None
    with pytest.raises(SettingsError, match=said):
        select_file(
            source, tmp_path / "out.jsonl", SelectSettings(by="kind:", **change), exclude=exclude
        )


def test_two_prompts_with_one_id_are_an_error() -> None:
    with pytest.raises(DataError, match="preftune prompts dedupe"):
        select([asked("a"), asked("a")], SelectSettings(n=1))


def test_groups_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text('{"kept": "a", "seen": 1, "dropped": []}\n{"kept": 5}\n')
    with pytest.raises(RowError, match=r"groups\.jsonl:2: "):
        read_groups(path)
    path.write_text("")
    assert read_groups(path) == []


def test_command_prints_a_table_of_slices(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    evil = asked("x", 1, "kind:\x1b[31mred")
    prompts = [*stock({"a": 10}, {"a": 3}), asked("b", 10, "kind:b"), evil]
    source, out = write(tmp_path / "p.jsonl", prompts), tmp_path / "out.jsonl"
    flags = ("--n", 7, "--by", "kind:", "--min-per-slice", 2, "--traffic-weight", 1)
    done = run_cli("prompts", "select", source, "--out", out, *flags)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "slice             held out  available  chosen  traffic  chosen share",
        r"kind:\x1b[31mred         0          1       1     2.4%         14.3%",
        "kind:a                   0         10       5    73.2%         71.4%",
        "kind:b                   0          1       1    24.4%         14.3%",
        r"not filled: kind:\x1b[31mred has 1 of the 2 it was to give",
        "not filled: kind:b has 1 of the 2 it was to give",
        f"written   7 prompts to {out}",
    ]
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert math.fsum(one["traffic_frac"] for one in report["slices"]) == pytest.approx(1)
    assert run_cli("prompts", "select", source, "--out", out, "--n", 0).code == 2
