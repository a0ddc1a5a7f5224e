from pathlib import Path

import pytest
from tests.prompts.logs import prompts_in

from preftune.errors import DataError
from preftune.prompts.traffic import asked, plain_tags, seen, shelf_in
from preftune.types import make_prompt, user


@pytest.mark.parametrize(("tags", "times"), [((), 1), (("seen:37",), 37), (("a", "seen:2"), 2)])
def test_seen_reads_the_tag_and_is_one_without(tags: tuple[str, ...], times: int) -> None:
    assert seen(make_prompt(user("hi"), tags=tags)) == times


@pytest.mark.parametrize(
    "tags", [("seen:x",), ("seen:0",), ("seen:-3",), ("seen:2", "seen:3"), ("seen:²",)]
)
def test_broken_count_is_an_error(tags: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="Give one tag such as 'seen:37'"):
        seen(make_prompt(user("hi"), tags=tags))


def test_asked_replaces_the_count_and_keeps_the_other_tags() -> None:
    prompt = asked(make_prompt(user("hi"), tags=("seen:2", "kind:a")), 9)
    assert prompt.tags == ("kind:a", "seen:9")
    assert plain_tags(prompt) == ("kind:a",)


def test_shelf_counts_equal_prompts_and_unites_their_tags(tmp_path: Path) -> None:
    with shelf_in(tmp_path) as shelf:
        shelf.put(make_prompt(user("one"), tags=("a", "seen:5")), 5)
        shelf.put(make_prompt(user("two")))
        shelf.put(make_prompt(user("one"), tags=("b", "a")), 2)
        shelf.write(tmp_path / "out.jsonl")
    found = prompts_in(tmp_path / "out.jsonl")
    assert [(p.messages[0].content, p.tags) for p in found] == [
        ("one", ("a", "b", "seen:7")),
        ("two", ("seen:1",)),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
