"""The edges of token rows: empty answers, answers inside answers, special tokens twice, no eos."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from preftune.errors import ModelError
from preftune.models.chat import Chat
from preftune.types import assistant, make_prompt, user

if TYPE_CHECKING:
    from tests.models.conftest import Family

    Families = Callable[[str], Family]

ALPACA = (
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)


def test_empty_answer_is_the_end_token_alone(each_family: "Family") -> None:
    chat = each_family.chat
    sequence = chat.encode(make_prompt(user("hello")), (assistant(""),))
    own = [i for i, is_own in zip(sequence.ids, sequence.own, strict=True) if is_own]
    assert own[-1] == chat.end_ids[0]
    assert chat.decode(own) == (assistant(""), True)


def test_answer_that_begins_another_is_told_apart_by_its_end(each_family: "Family") -> None:
    chat, prompt = each_family.chat, make_prompt(user("hello"))
    short = chat.encode(prompt, (assistant("the lazy"),)).response_ids
    long = chat.encode(prompt, (assistant("the lazy dog"),)).response_ids
    assert short != long
    for ids in (short, long):
        assert [i in chat.end_ids for i in ids].count(True) == 1
        assert ids[-1] in chat.end_ids


def test_first_token_typed_by_a_user_stands_once_in_the_ids(family: "Families") -> None:
    for name in ("llama2", "llama3", "gemma", "mistral"):
        chat = family(name).chat
        bos = chat.tokenizer.bos_token
        ids = chat.prompt_ids(make_prompt(user(f"{bos}hello {bos}")))
        assert ids.count(chat.tokenizer.bos_token_id) == 1
        assert ids[0] == chat.tokenizer.bos_token_id


def test_tokenizer_without_eos_needs_a_template_that_ends_turns(family: "Families") -> None:
    tokenizer = family("chatml").chat.tokenizer
    had = tokenizer.eos_token
    tokenizer.eos_token = None
    try:
        ended = Chat(tokenizer, family("chatml").chat.template)
        with pytest.raises(ModelError, match="neither the chat template nor the tokenizer ends"):
            Chat(tokenizer, ALPACA)
    finally:
        tokenizer.eos_token = had
    assert tokenizer.convert_ids_to_tokens(list(ended.end_ids)) == ["<|im_end|>"]
    assert ended.closes_turns


def test_template_without_an_end_token_says_so(family: "Families") -> None:
    assert not Chat(family("gpt2").chat.tokenizer, ALPACA).closes_turns


def test_every_family_closes_its_turns(each_family: "Family") -> None:
    assert each_family.chat.closes_turns
