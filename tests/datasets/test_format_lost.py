"""What a format cannot hold is counted by field; what would change the turns is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from preftune.datasets import read_pairs, write_records
from preftune.errors import DataError
from preftune.types import (
    Demonstration,
    Message,
    PreferencePair,
    Provenance,
    Record,
    assistant,
    make_prompt,
    user,
)

PROMPT = make_prompt(user("Can I wash my teddy bear?"))
PAIR = PreferencePair(
    id="mine",
    prompt=PROMPT,
    chosen=(assistant("Yes, by hand."),),
    rejected=(assistant("No."),),
    strength=2,
    probability=0.9,
    provenance=Provenance(raters=("ann", "bob")),
)


def test_hh_says_which_fields_it_drops(tmp_path: Path) -> None:
    plain = replace(PAIR, strength=None)
    lost = write_records(tmp_path / "a.jsonl", [PAIR, plain], format="hh")
    assert lost.counts == {"id": 2, "strength": 1, "probability": 2, "provenance.raters": 2}


def test_trl_holds_all_but_several_raters(tmp_path: Path) -> None:
    lost = write_records(tmp_path / "a.jsonl", [PAIR], format="trl")
    assert lost.counts == {"provenance.raters": 1}


def test_hh_says_that_the_start_of_the_response_moves(tmp_path: Path) -> None:
    first = assistant("Which bear?")
    pair = replace(
        PAIR,
        chosen=(first, user("This."), *PAIR.chosen),
        rejected=(first, user("This."), *PAIR.rejected),
    )
    lost = write_records(tmp_path / "a.jsonl", [pair], format="hh")
    assert lost.counts["where the prompt ends"] == 1
    back = read_pairs(tmp_path / "a.jsonl")[0]
    assert back.prompt.messages + back.chosen == pair.prompt.messages + pair.chosen


SYSTEM = make_prompt(Message(role="system", content="Be kind."), user("Hello?"))


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        ("hh", replace(PAIR, prompt=SYSTEM), "no place for a system turn"),
        ("hh", replace(PAIR, prompt=make_prompt(user("a\n\nAssistant: b"))), "turn marks"),
        ("trl-text", replace(PAIR, prompt=SYSTEM), "more than one plain user turn"),
        ("csv", replace(PAIR, chosen=(assistant("a"), user("b"), assistant("c"))), "more than one"),
        ("chat", PAIR, "holds demonstrations, not pairs"),
        ("trl", replace(PAIR, chosen_score=float("nan")), "finite"),
        ("trl", replace(PAIR, why="\ud800"), "surrogate"),
        ("preftune", replace(PAIR, why="\ud800"), "surrogate"),
        ("trl", replace(PAIR, chosen=(assistant(" "),)), "empty assistant turn"),
        ("trl", replace(PAIR, chosen=(user("a"),)), "does not end in an assistant turn"),
        ("trl-wrong", PAIR, "Use one of: preftune, hh, trl"),
    ],
)
def test_a_record_without_a_place_stops_the_writing(
    name: str, record: Record, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        write_records(tmp_path / "a.jsonl", [PAIR, record], format=name)
    assert list(tmp_path.iterdir()) == []


def test_no_records_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no records to write"):
        write_records(tmp_path / "a.jsonl", [])


def test_openai_rows_have_just_the_fields_of_the_guide(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [PAIR], format="openai")
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {
        "input": {"messages": [{"role": "user", "content": "Can I wash my teddy bear?"}]},
        "preferred_output": [{"role": "assistant", "content": "Yes, by hand."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }


def test_chat_rows_keep_weights(tmp_path: Path) -> None:
    muted = Message(role="assistant", content="Hm.", weight=0)
    prompt = make_prompt(user("a"), muted, user("b"))
    record = Demonstration(id="d", prompt=prompt, response=(assistant("c"),), weight=2.0)
    lost = write_records(tmp_path / "a.jsonl", [record], format="chat")
    assert lost.counts == {"id": 1, "weight": 1}
    weights = [m.get("weight") for m in json.loads((tmp_path / "a.jsonl").read_text())["messages"]]
    assert weights == [None, 0, None, None]
