"""What is written is read back equal, through every format that can hold it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.datasets import dataset_hash, read_records, write_records
from preftune.datasets.formats.columns import demonstration_id, pair_id, unpaired_id
from preftune.errors import DataError
from preftune.types import (
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    Provenance,
    RankedList,
    Record,
    ToolCall,
    UnpairedRow,
    assistant,
    content_id,
    make_prompt,
    user,
)

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
words = texts.filter(lambda text: bool(text.strip()))
finite = st.floats(allow_nan=False, allow_infinity=False)
calls = st.builds(ToolCall, id=texts, name=words, arguments=st.just('{"item": "teddy"}') | texts)
tools = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": st.dictionaries(texts, texts)}),
    max_size=2,
).map(tuple)
user_turn = words.map(user)
said = st.builds(Message, role=st.just("assistant"), content=words, weight=st.sampled_from([0, 1]))
called = st.builds(
    Message,
    role=st.just("assistant"),
    content=texts | st.just(""),
    tool_calls=st.lists(calls, min_size=1, max_size=2).map(tuple),
)
looked_up = st.builds(
    Message, role=st.just("tool"), content=texts, tool_call_id=texts, name=st.none() | texts
)
responses = st.one_of(
    said.map(lambda m: (m,)), st.tuples(called, looked_up, said), called.map(lambda m: (m,))
)
systems = st.lists(words.map(lambda t: Message(role="system", content=t)), max_size=1)
rounds = st.lists(st.tuples(user_turn, said), max_size=2)


@st.composite
def prompts(draw: st.DrawFn, *, plain: bool = False) -> Prompt:
    """Several turns and tools, or just a system and a user turn when `plain`."""
    start = draw(systems)
    if plain:
        return make_prompt(*start, draw(user_turn))
    turns = [turn for pair in draw(rounds) for turn in pair]
    return make_prompt(*start, *turns, draw(user_turn), tools=draw(tools))


def told() -> st.SearchStrategy[dict[str, Any]]:
    """All that the columns of a pair can say."""
    return st.fixed_dictionaries(
        {},
        optional={
            "id": words,
            "strength": st.integers(0, 3),
            "probability": st.floats(0, 1),
            "weight": st.floats(0, 100),
            "dimension": words,
            "chosen_score": finite,
            "rejected_score": finite,
            "why": texts,
            "provenance": words.map(lambda rater: Provenance(raters=(rater,))),
        },
    )


@st.composite
def pairs(
    draw: st.DrawFn, *, plain: bool = False, distinct_first: bool = False, columns: bool = True
) -> PreferencePair:
    """A pair; `plain` has one turn a side, `distinct_first` parts at the first turn."""
    prompt = draw(prompts(plain=plain))
    one = draw(words.map(lambda t: (assistant(t),)) if plain else responses)
    other = draw(
        (words.map(lambda t: (assistant(t),)) if plain else responses).filter(
            lambda found: found != one and not (distinct_first and found[0] == one[0])
        )
    )
    fields = draw(told()) if columns else {}
    fields.setdefault("id", pair_id(prompt, one, other))
    return PreferencePair(prompt=prompt, chosen=one, rejected=other, **fields)


@st.composite
def demonstrations(draw: st.DrawFn) -> Demonstration:
    prompt, response = draw(prompts()), draw(responses)
    return Demonstration(id=demonstration_id(prompt, response), prompt=prompt, response=response)


@st.composite
def unpaired(draw: st.DrawFn) -> UnpairedRow:
    prompt, response, label = draw(prompts()), draw(responses), draw(st.booleans())
    identity = unpaired_id(prompt, response, desirable=label)
    return UnpairedRow(id=identity, prompt=prompt, response=response, desirable=label)


@st.composite
def ranked(draw: st.DrawFn) -> RankedList:
    prompt = draw(prompts())
    found = tuple(draw(st.lists(responses, min_size=2, max_size=4)))
    ranks = tuple(sorted(draw(st.integers(1, 3)) for _ in found))
    scores = tuple(draw(finite) for _ in found) if draw(st.booleans()) else ()
    identity = content_id("ranked", prompt.id, found, ranks)
    return RankedList(id=identity, prompt=prompt, responses=found, ranks=ranks, scores=scores)


any_record: st.SearchStrategy[Record] = st.one_of(
    pairs(), demonstrations(), unpaired(), ranked(), prompts()
)


HOLDS: dict[str, st.SearchStrategy[Any]] = {
    "preftune": any_record,
    "trl": pairs(),
    "trl-implicit": pairs(distinct_first=True),
    "trl-unpaired": unpaired(),
    "trl-completion": demonstrations(),
    "trl-prompt": prompts(),
    "ultrafeedback": pairs(distinct_first=True),
    "openai": pairs(columns=False),
    "chat": demonstrations(),
    "ranked": ranked(),
    "csv": pairs(plain=True),
    "parquet": pairs(),
}


@pytest.mark.parametrize(
    ("name", "packed"), [*((name, "") for name in HOLDS), ("preftune", ".gz"), ("csv", ".gz")]
)
def test_records_are_read_back_equal(name: str, packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{name}{packed}"

    @settings(max_examples=25)
    @given(st.lists(HOLDS[name], min_size=1, max_size=4))
    def there_and_back(records: list[Record]) -> None:
        lost = write_records(path, records, format=name)
        assert read_records(path, format=name).records == records
        assert lost.counts == {}
        assert lost.written == len(records)

    there_and_back()


@pytest.mark.parametrize("kind", ["trl-unpaired", "trl-completion", "trl-prompt", "ranked"])
def test_parquet_holds_every_kind_of_row(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"

    @settings(max_examples=10)
    @given(st.lists(HOLDS[kind], min_size=1, max_size=3))
    def there_and_back(records: list[Record]) -> None:
        assert write_records(path, records, format="parquet").counts == {}
        assert read_records(path, format=f"parquet:{kind}").records == records

    there_and_back()


def test_parquet_inside_gzip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="packed in itself"):
        write_records(tmp_path / "a.parquet.gz", [make_prompt(user("a"))], format="parquet")
    assert list(tmp_path.iterdir()) == []


def test_one_file_of_ours_holds_all_kinds_and_equal_hashes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    @settings(max_examples=20)
    @given(st.lists(any_record, min_size=1, max_size=6))
    def there_and_back(records: list[Record]) -> None:
        write_records(path, records)
        assert dataset_hash(read_records(path).records) == dataset_hash(records)

    there_and_back()


@settings(max_examples=20)
@given(st.lists(pairs(), min_size=2, max_size=4, unique_by=lambda pair: pair.id))
def test_hash_depends_on_the_order(records: list[Record]) -> None:
    assert dataset_hash(records) != dataset_hash(records[::-1])
    assert dataset_hash(records) == dataset_hash(list(records))
