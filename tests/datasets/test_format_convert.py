"""Ranked lists to pairs, pairs to demonstrations and so on; a wrong kind names the way out."""

import json
from collections import Counter
from pathlib import Path

import pytest

from preftune.datasets import (
    Target,
    convert,
    convert_file,
    read_comparisons,
    read_demonstrations,
    read_pairs,
    read_prompts,
    read_rankings,
    read_responses,
    read_unpaired,
    write_records,
)
from preftune.errors import DataError, RowError
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    RankedList,
    Rater,
    Record,
    Response,
    UnpairedRow,
    assistant,
    make_prompt,
    user,
)

PROMPT = make_prompt(user("Q"))
A, B, C = (assistant("a"),), (assistant("b"),), (assistant("c"),)
RANKED = RankedList(
    id="r", prompt=PROMPT, responses=(A, B, C), ranks=(1, 2, 2), scores=(3.0, 1.0, 0.5), weight=2.0
)
PAIR = PreferencePair(id="p", prompt=PROMPT, chosen=A, rejected=B, strength=3, weight=2.0)
RESPONSES = tuple(Response(id=n, prompt_id=PROMPT.id, messages=(assistant(n),)) for n in "xy")
COMPARISON = Comparison(id="c", prompt=PROMPT, responses=RESPONSES)
JUDGMENT = Judgment(id="j", comparison_id="c", kind="binary", choice=0, rater=Rater(id="ann"))


def test_every_decided_pair_of_a_ranked_list() -> None:
    lost: Counter[str] = Counter()
    pairs = [p for p in convert([RANKED], "pairs", lost) if isinstance(p, PreferencePair)]
    assert [(p.chosen, p.rejected) for p in pairs] == [(A, B), (A, C)]
    assert [(p.chosen_score, p.rejected_score, p.weight) for p in pairs] == [(3, 1, 2), (3, 0.5, 2)]
    assert lost == {"tied responses, no pair": 1}


def test_best_against_worst() -> None:
    lost: Counter[str] = Counter()
    (pair,) = convert([RANKED], "best-worst", lost)
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen, pair.rejected) == (A, C)
    assert lost == {"responses between best and worst": 1}
    tied = RankedList(id="t", prompt=PROMPT, responses=(A, B), ranks=(1, 1))
    assert list(convert([tied], "best-worst", lost)) == []


def test_a_pair_becomes_two_unpaired_rows() -> None:
    lost: Counter[str] = Counter()
    rows = [r for r in convert([PAIR], "unpaired", lost) if isinstance(r, UnpairedRow)]
    assert [(r.response, r.desirable, r.weight) for r in rows] == [(A, True, 2.0), (B, False, 2.0)]
    assert lost == {"strength": 1}


def test_the_chosen_response_is_demonstrated() -> None:
    lost: Counter[str] = Counter()
    (row,) = convert([PAIR], "demonstrations", lost)
    assert isinstance(row, Demonstration)
    assert (row.prompt, row.response, row.weight) == (PROMPT, A, 2.0)
    assert lost == {"rejected response": 1, "strength": 1}


def test_records_of_the_kind_pass_unchanged_and_prompts_once() -> None:
    lost: Counter[str] = Counter()
    assert list(convert([PAIR], "pairs", lost)) == [PAIR]
    assert lost == {}
    assert list(convert([PAIR, RANKED, PROMPT], "prompts", lost)) == [PROMPT]
    assert lost["repeated prompt"] == 2


def test_what_cannot_become_the_target_is_said() -> None:
    demonstration = Demonstration(id="d", prompt=PROMPT, response=A)
    with pytest.raises(DataError, match=r"demonstrations hold no pairs\. They can become prompts"):
        list(convert([demonstration], "pairs", Counter()))


def test_files_are_converted_to_what_the_format_holds(tmp_path: Path) -> None:
    source, out = tmp_path / "ranked.jsonl", tmp_path / "out.jsonl"
    write_records(source, [RANKED], format="ranked")
    assert convert_file(source, out, to="trl").lost.counts == {"tied responses, no pair": 1}
    assert [pair.rejected for pair in read_pairs(out)] == [B, C]
    assert convert_file(out, out, to="chat").lost.written == 2
    assert [row.response for row in read_demonstrations(out)] == [A, A]
    convert_file(source, out, to="preftune")
    assert read_rankings(out) == [RANKED]
    convert_file(source, out, to="preftune", target="best-worst")
    assert [pair.rejected for pair in read_pairs(out)] == [C]
    with pytest.raises(
        DataError, match=r"target 'worst': not known\. Use one of: pairs, best-worst"
    ):
        convert_file(source, out, to="trl", target="worst")


@pytest.mark.parametrize(
    ("reader", "records", "words"),
    [
        (
            read_demonstrations,
            [PAIR],
            "holds pairs, not demonstrations. Run: preftune data convert .* --to chat",
        ),
        (
            read_pairs,
            [RANKED],
            "holds ranked lists, not pairs. Run: preftune data convert .* --to trl ",
        ),
        (read_unpaired, [PAIR], "Run: preftune data convert .* --to trl-unpaired"),
        (read_rankings, [PAIR], "holds pairs, not ranked lists. Give a file of ranked lists"),
        (read_responses, [PROMPT], "holds prompts, not responses"),
        (read_prompts, [RESPONSES[0]], "holds responses, not prompts"),
        (read_comparisons, [COMPARISON, PAIR], "holds pairs, not comparisons"),
        (read_pairs, [PAIR, JUDGMENT], "holds judgments, not pairs"),
    ],
)
def test_the_wrong_kind_names_what_is_there(
    reader: object, records: list[Record], words: str, tmp_path: Path
) -> None:
    assert callable(reader)
    write_records(tmp_path / "a.jsonl", records)
    with pytest.raises(DataError, match=words):
        reader(tmp_path / "a.jsonl")


def test_readers_give_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_records(path, [JUDGMENT, COMPARISON])
    assert read_comparisons(path) == ([COMPARISON], [JUDGMENT])
    write_records(path, RESPONSES)
    assert read_responses(path) == list(RESPONSES)
    write_records(path, [PAIR, RANKED, PROMPT, COMPARISON])
    assert read_prompts(path) == [PROMPT]
    row = UnpairedRow(id="u", prompt=PROMPT, response=A, desirable=False)
    write_records(path, [row])
    assert read_unpaired(path) == [row]


@pytest.mark.parametrize(("target", "pairs"), [("pairs", 2), ("best-worst", 0)])
def test_equal_answers_of_a_ranked_list_make_no_pair_and_are_counted(
    target: Target, pairs: int
) -> None:
    same, other = (assistant("same"),), (assistant("other"),)
    ranked = RankedList(
        id="r", prompt=make_prompt(user("?")), responses=(same, other, same), ranks=(0, 1, 2)
    )
    lost: Counter[str] = Counter()
    made = list(convert([ranked], target, lost))
    assert len(made) == pairs
    assert lost["equal responses, no pair"] == 1


def test_conversations_that_end_in_a_question_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "rft.jsonl"
    asked = {"messages": [{"role": "user", "content": "9 + 9?"}], "answer": "18"}
    path.write_text(f"{json.dumps(asked)}\n" * 2)
    assert read_prompts(path) == [make_prompt(user("9 + 9?"))]
    with pytest.raises(RowError, match="1: the response does not end in an assistant turn"):
        read_demonstrations(path)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "9 + 9?"}, {"role": "assistant", "content": ""}],
        [{"role": "system", "content": "Add."}],
    ],
)
def test_a_row_that_neither_asks_nor_answers_is_no_prompt(
    tmp_path: Path, messages: list[dict[str, str]]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    with pytest.raises(RowError, match="assistant turn"):
        read_prompts(path)
