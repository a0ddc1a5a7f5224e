"""From records to rows: exact errors, lengths, what is cut and what is dropped."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from tests.training.conftest import demonstrations, pairs

from preftune.errors import DataError, ModelError
from preftune.models.chat import Chat, load_chat
from preftune.models.tokens import TokenSequence
from preftune.records import decode
from preftune.training.rows import PairRow, TokenRows, fit_length, model_limit
from preftune.training.settings import LengthSettings
from preftune.training.tokenise import demonstration_rows, pair_rows
from preftune.types import Message, PreferencePair, assistant, make_prompt, user

ALPACA = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.fixture(scope="module")
def chat(world: Path) -> Chat:
    return load_chat(world / "base")


def pair(question: str, chosen: str, rejected: str) -> PreferencePair:
    prompt = make_prompt(user(question))
    sides = (assistant(chosen),), (assistant(rejected),)
    return PreferencePair(id=f"pair {question}", prompt=prompt, chosen=sides[0], rejected=sides[1])


def fit(
    rows: TokenRows[PairRow],
    tmp_path: Path,
    settings: LengthSettings | None = None,
    *,
    limit: int = 1000,
) -> TokenRows[PairRow]:
    return fit_length(
        rows,
        settings=settings or LengthSettings(),
        model_limit=limit,
        dropped=tmp_path / "dropped.jsonl",
    )


def test_pair_rows_are_the_sequences_of_the_chat(chat: Chat) -> None:
    rows = pair_rows(pairs(), chat)
    assert len(rows) == 30
    for number, (row, record) in enumerate(zip(rows, pairs(), strict=True)):
        assert row == PairRow(
            number=number,
            chosen=chat.encode(record.prompt, record.chosen),
            rejected=chat.encode(record.prompt, record.rejected),
            weight=1.0,
            probability=0.9,
            strength=number % 4,
        )


@pytest.mark.parametrize("train_on", ["last", "all"])
def test_demonstration_rows_are_the_sequences_of_the_chat(
    chat: Chat, train_on: Literal["last", "all"]
) -> None:
    rows = demonstration_rows(demonstrations(), chat, train_on=train_on)
    wanted = [chat.encode(d.prompt, d.response, train_on=train_on) for d in demonstrations()]
    assert [row.sequence for row in rows] == wanted
    assert [row.weight for row in rows] == [1.0] * 30


def test_encoder_rows_are_the_sequences_of_its_chat(world: Path) -> None:
    encoder = load_chat(world / "encoder")
    rows = pair_rows(pairs(), encoder)
    assert [row.sequences for row in rows] == [
        (encoder.encode(p.prompt, p.chosen), encoder.encode(p.prompt, p.rejected)) for p in pairs()
    ]


def test_prompt_shared_by_two_responses_lies_there_once(chat: Chat) -> None:
    rows = pair_rows(pairs(), chat)
    once = sum(
        len(row.chosen.prompt_ids) + len(row.chosen.response_ids) + len(row.rejected.response_ids)
        for row in rows
    )
    assert len(rows.arrays.ids) == len(rows.arrays.own) == once


def test_lengths_need_no_row(chat: Chat) -> None:
    rows = pair_rows(pairs(), chat)
    assert rows.lengths.tolist() == [[len(r.chosen), len(r.rejected)] for r in rows]


def test_rows_are_picked_by_place_and_by_slice(chat: Chat) -> None:
    rows = pair_rows(pairs(), chat)
    assert rows[-1] == rows[29]
    assert list(rows[3:6]) == [rows[3], rows[4], rows[5]]
    assert list(rows[::-1]) == list(reversed(list(rows)))
    assert len(rows[40:]) == 0
    with pytest.raises(IndexError):
        rows[30]


def test_no_records_give_no_rows(chat: Chat, tmp_path: Path) -> None:
    rows = pair_rows([], chat)
    assert list(rows) == []
    assert list(fit(rows, tmp_path)) == []


def test_same_tokens_from_other_text_are_named(chat: Chat) -> None:
    """The word tokenizer knows neither zebra nor giraffe: both are the unknown word."""
    bad = [*pairs()[:2], pair("can i wash it ?", "yes zebra", "yes giraffe")]
    with pytest.raises(DataError, match=r"^row 3 \(pair can i wash it \?\): chosen and rejected"):
        pair_rows(bad, chat)


def test_answer_that_begins_the_other_is_a_pair(chat: Chat) -> None:
    (row,) = pair_rows([pair("can i wash it ?", "yes", "yes you can")], chat)
    assert row.chosen.ids != row.rejected.ids
    assert row.chosen.own_length == 2  # the word, and the end of the turn


def test_no_turn_to_train_on_is_named(chat: Chat) -> None:
    quiet = Message(role="assistant", content="yes", weight=0)
    bad = [*demonstrations()[:3], replace(demonstrations()[3], response=(quiet,))]
    with pytest.raises(DataError, match=rf"^row 4 \({bad[3].id}\): no assistant turn of weight 1"):
        demonstration_rows(bad, chat, train_on="last")


def test_empty_response_is_one_token_and_is_counted(chat: Chat) -> None:
    rows = pair_rows([*pairs()[:2], pair("can i wash it ?", "yes", "")], chat)
    assert rows[2].rejected.own_length == 1
    assert rows[2].rejected.ids[-1] == chat.end_ids[0]
    assert rows.notes == (
        "1 rows have an empty response, only its end is learnt; "
        "first: row 3 (pair can i wash it ?)",
    )
    assert pair_rows(pairs(), chat).notes == ()


def test_empty_response_is_refused_where_no_token_ends_it(chat: Chat) -> None:
    open_ended = Chat(chat.tokenizer, ALPACA)
    assert not open_ended.closes_turns
    with pytest.raises(DataError, match=r"^row 1 \(pair wash it \?\): a response is empty"):
        pair_rows([pair("wash it ?", "", "yes")], open_ended)
    assert len(pair_rows([pair("wash it ?", "no", "yes")], open_ended)) == 1


def test_rows_that_fit_are_left_alone(chat: Chat, tmp_path: Path) -> None:
    rows = pair_rows(pairs(), chat)
    assert fit(rows, tmp_path) is rows
    longest = int(rows.lengths.max())
    assert fit(rows, tmp_path, limit=longest) is rows


def test_limit_above_the_models_is_refused(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="max_length is 11, the model holds 10"):
        fit(pair_rows(pairs(), chat), tmp_path, LengthSettings(max_length=11), limit=10)


def test_prompt_longer_than_the_model_stops_with_the_count(chat: Chat, tmp_path: Path) -> None:
    limit = model_limit(chat)
    words = " ".join(["wash"] * limit)
    rows = pair_rows([pair("can i ?", "yes", "no"), pair(words, "yes", "no")], chat)
    long = int(rows.lengths.max())
    with pytest.raises(
        DataError,
        match=rf"^1 of 2 rows are longer than {limit} tokens \(longest {long}; first: row 2\)",
    ):
        fit(rows, tmp_path, limit=limit)


def long_and_short(chat: Chat) -> tuple[TokenRows[PairRow], int, list[int]]:
    """Return rows, a limit that some are over by a token or two, and which those are."""
    rows = pair_rows(pairs(), chat)
    longest = rows.lengths.max(axis=1)
    limit = int(longest.max()) - 1
    long = [i for i, length in enumerate(longest.tolist()) if length > limit]
    assert 0 < len(long) <= 30
    return rows, limit, long


def test_dropped_rows_are_written_down(chat: Chat, tmp_path: Path) -> None:
    records = [*pairs()[:3], pair("can i wash my red bear ? thank you yes", "yes you can", "no")]
    rows = pair_rows(records, chat)
    settings = LengthSettings(max_length=int(rows[0].chosen.own_length + 9), on_long="drop")
    dropped = tmp_path / "dropped.jsonl"
    kept = fit_length(rows, settings=settings, model_limit=1000, dropped=dropped)
    lengths = rows.lengths.max(axis=1).tolist()
    short = [i for i, length in enumerate(lengths) if length <= settings.max_length]
    assert [row.number for row in kept] == short
    assert list(kept) == [rows[i] for i in short]
    written = [decode(line) for line in dropped.read_bytes().splitlines()]
    assert written == [records[i] for i in range(4) if i not in short]


def test_cut_prompt_loses_its_start_on_both_sides_alike(chat: Chat, tmp_path: Path) -> None:
    rows, limit, long = long_and_short(chat)
    cut = fit(rows, tmp_path, LengthSettings(max_length=limit, on_long="cut-prompt"))
    assert cut.lengths.max() == limit
    for i, (before, after) in enumerate(zip(rows, cut, strict=True)):
        excess = max(0, max(map(len, before.sequences)) - limit)
        assert (excess > 0) == (i in long)
        assert after.sequences == tuple(
            TokenSequence(
                prompt_ids=s.prompt_ids[excess:], response_ids=s.response_ids, own=s.own[excess:]
            )
            for s in before.sequences
        )


def test_response_alone_too_long_is_never_cut(chat: Chat, tmp_path: Path) -> None:
    rows = pair_rows(pairs(), chat)
    shortest = min(len(s.response_ids) for s in rows[0].sequences)
    with pytest.raises(DataError, match=r"^row 1: a response alone is longer than"):
        fit(rows, tmp_path, LengthSettings(max_length=shortest, on_long="cut-prompt"))
