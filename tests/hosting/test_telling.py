"""The text of a reply while it is written: whole characters, no part of a stop, nothing lost."""

from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.hosting.telling import Telling, Words
from preftune.hosting.token_names import TokenNames
from preftune.inference.stops import cut
from preftune.models.chat import Chat, load_chat
from preftune.models.new import new_model


@pytest.fixture(scope="module")
def chat(model_folder: Path) -> Chat:
    return load_chat(model_folder)


@pytest.fixture(scope="module")
def words_chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """A tokenizer that puts blanks between its tokens when it decodes."""
    folder = tmp_path_factory.mktemp("words") / "m"
    texts = ["wash it ?", "dry it or iron it ?"]
    new_model(folder, preset="tiny", texts=texts, vocab_size=64, seed=0, tokenizer="words")
    return load_chat(folder)


def tell(words: Words, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], Telling]:
    """Write a reply token by token, to its end or to its first stop; return the pieces."""
    telling, pieces = Telling(words=words, stops=stops), []
    for count, id_ in enumerate(ids, 1):
        stopped = telling.add(id_)
        if stopped or count == len(ids):
            telling.close(ids[:count], stopped=stopped)
        pieces.append(telling.news())
        if stopped:
            break
    return pieces, telling


def encoded(chat: Chat, text: str) -> list[int]:
    return list(chat.tokenizer(text)["input_ids"])


@pytest.mark.parametrize("text", ["naïve – 😀😀 日本語", "a\ufffdb", "", "\n\n x"])
def test_pieces_join_to_the_text_in_whole_characters(chat: Chat, text: str) -> None:
    pieces, telling = tell(Words.of(chat), encoded(chat, text))
    assert "".join(pieces) == text == telling.settled
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200)
@given(data=st.data())
def test_pieces_of_any_tokens_join_to_what_decoding_them_at_once_gives(
    chat: Chat, data: st.DataObject
) -> None:
    size = len(chat.tokenizer)
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=30))
    pieces, telling = tell(Words.of(chat), ids)
    assert "".join(pieces) == telling.settled == chat.decode(ids)[0].content


def test_a_decoder_that_joins_words_by_blanks_loses_none(words_chat: Chat) -> None:
    rng, words = Random(0), Words.of(words_chat)
    for _ in range(50):
        ids = [rng.randrange(len(words_chat.tokenizer)) for _ in range(9)]
        pieces, _ = tell(words, ids)
        assert "".join(pieces) == words_chat.decode(ids)[0].content


@lru_cache
def made_up(tail: str, lead: str = "") -> Words:
    """Letters as ids, and a template that writes something around every answer."""

    def decode(ids: object) -> str:
        text = "".join(map(chr, ids)).removeprefix(lead)  # type: ignore[call-overload]
        return text.removesuffix(f"{tail}$").removesuffix("$") if text.endswith("$") else text

    return Words(decode=decode, lead=lead, tail=tail)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_no_part_of_a_stop_is_ever_told(text: str, stops: list[str]) -> None:
    pieces, telling = tell(made_up(""), [ord(c) for c in text], tuple(stops))
    expected = cut(text, stops)[0]
    if any(stop in text for stop in stops):  # the first one that is complete ends the reply
        end = min(text.find(stop) + len(stop) for stop in stops if stop in text)
        expected = cut(text[:end], stops)[0]
    assert "".join(pieces) == telling.settled == expected


def test_what_may_become_a_stop_waits_until_it_has_become_something_else() -> None:
    pieces, _ = tell(made_up(""), [ord(c) for c in "xaab"], ("aac",))
    assert pieces == ["x", "", "", "aab"]


def test_what_the_template_writes_around_an_answer_is_not_told() -> None:
    words = made_up("\n", "<t>")
    pieces, telling = tell(words, [ord(c) for c in "<t>hi\n$"])
    assert "".join(pieces) == telling.settled == "hi"
    assert pieces[:3] == ["", "", ""]


def test_each_token_begins_where_what_is_certain_ended() -> None:
    _, telling = tell(made_up(""), [ord(c) for c in "abc"], ("c",))
    assert telling.begins == [0, 1, 2]
    assert telling.told == 2


def test_all_tokens_of_a_character_begin_where_it_does(chat: Chat) -> None:
    telling = Telling(words=Words.of(chat), stops=("X",))
    ids = encoded(chat, "a😀X")
    assert len(ids) > 3
    assert [telling.add(id_) for id_ in ids][-1]
    assert telling.settled == "a😀"
    assert sum(begin < 2 for begin in telling.begins) == len(ids) - 1  # all but the stop's


def test_a_single_token_is_told_with_its_own_bytes(chat: Chat) -> None:
    names, ids = TokenNames(chat), encoded(chat, "wash 😀–")
    assert b"".join(names.of(id_)[1] for id_ in ids) == "wash 😀–".encode()
    assert names.of(ids[-1])[0] == "\ufffd" or names.of(ids[-1])[1] == "–".encode()
    end = chat.end_ids[0]
    assert names.of(end)[0] == chat.tokenizer.convert_ids_to_tokens(end)
