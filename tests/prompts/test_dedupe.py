"""Of prompts that are the same the most seen one stays, and no count is lost."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prompts.logs import prompts_in

from preftune.errors import DataError, RowError
from preftune.prompts.dedupe import dedupe_file, group, kept
from preftune.prompts.similar import content_key, likeness
from preftune.prompts.traffic import seen
from preftune.records import encode
from preftune.types import Prompt, assistant, make_prompt, user


def asked(text: str, times: int = 1, *tags: str) -> Prompt:
    return make_prompt(user(text), tags=(*tags, f"seen:{times}"))


def write(path: Path, prompts: list[Prompt]) -> Path:
    path.write_bytes(b"".join(map(encode, prompts)))
    return path


def test_exact_duplicates_are_one_with_all_counts_and_tags() -> None:
    prompts = [asked("Hello  there", 2, "a"), asked("bye", 1), asked("hello there", 5, "b")]
    groups = group(prompts)
    staying = list(kept(lambda: prompts, groups))
    assert [(p.messages[0].content, p.tags) for p in staying] == [
        ("bye", ("seen:1",)),
        ("hello there", ("b", "a", "seen:7")),
    ]
    (member,) = groups[1].dropped
    assert (member.id, member.seen, member.exact) == (prompts[0].id, 2, True)


def test_near_duplicates_stay_unless_asked_for() -> None:
    text = "may i put my old red wool socks in the washer at forty degrees"
    prompts = [asked(text, 3), asked(f"{text} please", 9), asked("something else", 1)]
    assert len(group(prompts)) == 3
    groups = group(prompts, near=0.8)
    assert [(g.kept, g.seen) for g in groups] == [(prompts[1].id, 12), (prompts[2].id, 1)]
    (member,) = groups[0].dropped
    assert not member.exact
    assert member.likeness == pytest.approx(12 / 13)


def test_no_prompt_is_dropped_by_way_of_a_third() -> None:
    # neighbours share 16 of 20 runs (0.8 or more), the ends do not
    words = [f"w{n}" for n in range(24)]
    chain = [asked(" ".join(words[start : start + 22]), 9 - start) for start in range(3)]
    alike = [[likeness(a).to(likeness(b)) for b in chain] for a in chain]
    assert alike[0][1] > 0.9 > alike[0][2] > 0.8
    groups = group(chain, near=0.9)
    assert [g.kept for g in groups] == [chain[0].id, chain[2].id]


def test_the_same_prompt_of_two_days_is_one() -> None:
    # two imports put one behind the other: equal ids, equal content
    prompts = [asked("hello", 2, "monday"), asked("bye"), asked("hello", 3, "tuesday")]
    staying = list(kept(lambda: prompts, group(prompts)))
    assert [p.tags for p in staying] == [("monday", "tuesday", "seen:5"), ("seen:1",)]


def test_two_contents_under_one_id_are_an_error() -> None:
    one = asked("hello")
    other = Prompt(id=one.id, messages=(user("bye"),))
    with pytest.raises(DataError, match="two prompts have this id"):
        group([one, other])


WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9).map(" ".join)
PROMPTS = st.lists(st.tuples(WORDS, st.integers(1, 9)), min_size=1, max_size=12)


@given(PROMPTS, st.sampled_from([None, 0.5, 0.8]), st.randoms(use_true_random=False))
def test_counts_add_up_and_order_changes_nothing(
    found: list[tuple[str, int]], near: float | None, rng: random.Random
) -> None:
    prompts = [asked(text, times) for text, times in found]
    groups = group(prompts, near=near)
    assert sum(g.seen for g in groups) == sum(map(seen, prompts))
    assert sum(1 + len(g.dropped) for g in groups) == len(prompts)
    by_id = {p.id: p for p in prompts}
    for one in groups:
        for member in one.dropped:
            alike = likeness(by_id[one.kept]).to(likeness(by_id[member.id]))
            same = content_key(by_id[one.kept]) == content_key(by_id[member.id])
            assert member.exact is same
            assert same or alike == member.likeness >= (near or 2)
    shuffled = rng.sample(prompts, len(prompts))
    assert {g.kept: g for g in group(shuffled, near=near)} == {g.kept: g for g in groups}


def test_dedupe_of_what_it_wrote_changes_nothing(desk_prompts: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    report = dedupe_file(desk_prompts, once, near=0.8)
    assert (report.prompts, report.exact) == (len(prompts_in(desk_prompts)), 0)
    assert 0 < report.near < report.prompts / 2
    again = dedupe_file(once, twice, near=0.8)
    assert (again.near, again.seen, report.seen) == (0, 1000, 1000)
    assert twice.read_bytes() == once.read_bytes()
    lines = (tmp_path / "once.groups.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["dropped"]) for line in lines) == report.near
    assert (tmp_path / "twice.groups.jsonl").read_text() == ""


def test_care_desk_keeps_each_question_apart(desk_prompts: Path) -> None:
    # greetings and "pls" are dropped, never another item, treatment or kind
    prompts = prompts_in(desk_prompts)
    about = {p.id: {t for t in p.tags if t.startswith(("row:", "kind:"))} for p in prompts}
    for one in group(prompts, near=0.8):
        assert all(about[member.id] == about[one.kept] for member in one.dropped)


def test_row_that_is_no_prompt_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [asked("hello")])
    path.write_bytes(path.read_bytes() + b'{"type": "prompt"}\n')
    with pytest.raises(RowError, match=r"p\.jsonl:2: .*missing required field"):
        dedupe_file(path, tmp_path / "out.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_command_says_what_was_dropped(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    source = write(tmp_path / "p.jsonl", [asked("hello", 4), asked("Hello", 2)])
    out = tmp_path / "u.jsonl"
    done = run_cli("prompts", "dedupe", source, "--out", out, "--near", "0.8")
    assert done.out.splitlines() == [
        "prompts   2, asked 6 times",
        "exact     1 dropped: the same but for case and white space",
        "near      0 dropped: likeness of 0.8 or more",
        "groups    1 prompts stand for others",
        f"written   1 prompts to {out}",
    ]
    assert run_cli("prompts", "dedupe", source, "--out", out, "--near", "8").code == 2


def test_multi_turn_prompts_differ_by_their_last_turn() -> None:
    history = user("can i put my teddy bear in the washer ?"), assistant("yes , at 30 degrees .")
    prompts = [make_prompt(*history, user(f"and the {what} ?")) for what in ("dryer", "iron")]
    assert len(group(prompts, near=0.5)) == 2
