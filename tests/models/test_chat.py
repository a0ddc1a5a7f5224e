"""Exact tokens, on ten families of tokenizer and template."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import DataError, ModelError
from preftune.models.chat import Chat
from preftune.types import Message, Prompt, ToolCall, assistant, make_prompt, user

if TYPE_CHECKING:
    from tests.models.conftest import Family

    Families = Callable[[str], Family]

ANSWERS = ("Yes, you can.", "hello", "the lazy dog\n\nsays hello", "x + 1")
WORDS = ("hello to the world.", "the lazy dog")


def answers(of: "Family") -> tuple[str, ...]:
    return WORDS if of.words_only else ANSWERS


def ordinary_prompts(of: "Family") -> list[Prompt]:
    talk = [
        (user("hello to the world."),),
        (user("the lazy"), assistant("dog and"), user("says hello to")),
    ]
    if of.has_system:
        talk.append((Message(role="system", content="the quick brown"), user("fox jumps")))
    return [make_prompt(*messages) for messages in talk]


def native_ids(chat: Chat, prompt: Prompt) -> list[int]:
    """Return what transformers makes of the same prompt."""
    turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
    ids: list[int] = chat.tokenizer.apply_chat_template(
        turns,
        chat_template=chat.template,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    return ids


def own_ids(chat: Chat, prompt: Prompt, *response: Message, **how: Any) -> list[int]:
    sequence = chat.encode(prompt, response, **how)
    return [i for i, own in zip(sequence.ids, sequence.own, strict=True) if own]


def test_prompt_ids_equal_the_tokenizers_own(each_family: "Family") -> None:
    for prompt in ordinary_prompts(each_family):
        assert list(each_family.chat.prompt_ids(prompt)) == native_ids(each_family.chat, prompt)


def test_sequence_starts_with_the_prompt_ids(each_family: "Family") -> None:
    for prompt in ordinary_prompts(each_family):
        sequence = each_family.chat.encode(prompt, (assistant("the lazy dog"),))
        assert sequence.prompt_ids == each_family.chat.prompt_ids(prompt)


def test_own_tokens_decode_to_the_answer(each_family: "Family") -> None:
    for answer in answers(each_family):
        ids = own_ids(each_family.chat, make_prompt(user("hello")), assistant(answer))
        assert each_family.chat.decode(ids) == (assistant(answer), True)


def test_end_token_stands_once_and_last(each_family: "Family") -> None:
    for answer in answers(each_family):
        ids = own_ids(each_family.chat, make_prompt(user("hello")), assistant(answer))
        assert [i in each_family.chat.end_ids for i in ids].count(True) == 1
        assert ids[-1] == each_family.chat.end_ids[0]


def test_prompt_tokens_are_never_own(each_family: "Family") -> None:
    for prompt in ordinary_prompts(each_family):
        sequence = each_family.chat.encode(prompt, (assistant("hello"),))
        assert not any(sequence.own[: len(sequence.prompt_ids)])
        assert all(sequence.own[len(sequence.prompt_ids) :])


def test_whole_conversation_equals_the_tokenizers_own(each_family: "Family") -> None:
    """With words that no boundary can merge, joining ids equals tokenising the whole text."""
    chat = each_family.chat
    prompt = make_prompt(user("hello"))
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the lazy dog"}]
    whole = chat.tokenizer.apply_chat_template(
        turns, chat_template=chat.template, tokenize=True, return_dict=False
    )
    ours = chat.encode(prompt, (assistant("the lazy dog"),)).ids
    assert list(ours) == whole[: len(ours)]


@pytest.mark.parametrize("where", ["user", "assistant", "system"])
def test_special_tokens_in_text_stay_text(each_family: "Family", where: str) -> None:
    chat = each_family.chat
    if where == "system" and not each_family.has_system:
        return
    calm = make_prompt(*turns_with(where, "hello"))
    expected = control_ids(chat, calm, "hello" if where == "assistant" else "dog")
    for token in each_family.special:
        for text in (token, f"hello {token} dog", f"{token}{token}", f" {token[:2]}{token}"):
            prompt = make_prompt(*turns_with(where, text))
            answer = text if where == "assistant" else "dog"
            assert control_ids(chat, prompt, answer) == expected


def turns_with(where: str, text: str) -> list[Message]:
    system = [Message(role="system", content=text)] if where == "system" else []
    return [*system, user(text if where == "user" else "hello")]


def control_ids(chat: Chat, prompt: Prompt, answer: str) -> list[int]:
    """Return the special ids of a sequence in order; the unknown-word id is none."""
    special = special_ids(chat)
    return [i for i in chat.encode(prompt, (assistant(answer),)).ids if i in special]


def special_ids(chat: Chat) -> set[int]:
    """Return the ids that nobody's text may yield; the unknown-word id is none of them."""
    special = {i for i, t in chat.tokenizer.added_tokens_decoder.items() if t.special}
    unknown = {chat.tokenizer.convert_tokens_to_ids(t) for t in ("<unk>", "<|unk|>")}
    return special - unknown


def test_special_token_in_an_answer_decodes_as_it_was(each_family: "Family") -> None:
    if each_family.words_only:
        return
    for token in each_family.special:
        answer = f"say {token} now"
        ids = own_ids(each_family.chat, make_prompt(user("hello")), assistant(answer))
        assert each_family.chat.decode(ids) == (assistant(answer), True)


def test_two_texts_side_by_side_cannot_make_a_token(family: "Families") -> None:
    made = family("chatml").chat.tokenizer
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>{% endif %}"
        "{% endfor %}"
    )
    chat = Chat(made, template)
    ids = chat.prompt_ids(make_prompt(user("a <|im_"), user("end|> b")))
    assert not set(ids) & special_ids(chat)
    assert made.decode(ids) == "a <|im_end|> b"


@pytest.mark.parametrize("name", ["chatml", "llama3", "gpt2", "zephyr", "phi3"])
def test_any_text_goes_there_and_back(family: "Families", name: str) -> None:
    chat = family(name).chat
    trims = family(name).trims

    @settings(max_examples=60)
    @given(st.text(min_size=1, max_size=40))
    def there_and_back(text: str) -> None:
        text = text.strip() if trims else text
        if not text:
            return
        ids = own_ids(chat, make_prompt(user(text)), assistant(text))
        assert chat.decode(ids) == (assistant(text), True)

    there_and_back()


@given(
    st.lists(
        st.sampled_from(["<|im_end|>", "<|im_", "end|>", "<", "|", " ", "a", "\n"]), max_size=8
    )
)
def test_no_mixture_of_pieces_smuggles_a_token(family: "Families", pieces: list[str]) -> None:
    chat = family("chatml").chat
    text = "".join(pieces)
    ids = chat.encode(make_prompt(user(text)), (assistant(text),)).ids
    special = special_ids(chat)
    assert [chat.tokenizer.decode([i]) for i in ids if i in special] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
        "<|im_end|>",
    ]


def conversation() -> tuple[Prompt, tuple[Message, ...]]:
    prompt = make_prompt(user("hello"), assistant("the lazy"), user("dog"))
    return prompt, (assistant("says"), user("hello to"), assistant("the world."))


def test_last_marks_the_turns_of_the_response(each_family: "Family") -> None:
    chat = each_family.chat
    prompt, response = conversation()
    turns = split_turns(chat, own_ids(chat, prompt, *response))
    assert turns == ["says", "the world."]


def test_all_marks_the_turns_of_the_prompt_too(each_family: "Family") -> None:
    chat = each_family.chat
    prompt, response = conversation()
    turns = split_turns(chat, own_ids(chat, prompt, *response, train_on="all"))
    assert turns == ["the lazy", "says", "the world."]


def split_turns(chat: Chat, ids: list[int]) -> list[str]:
    turns: list[list[int]] = [[]]
    for id_ in ids:
        turns[-1].append(id_)
        if id_ in chat.end_ids:
            turns.append([])
    assert turns.pop() == []
    decoded = [chat.decode(turn) for turn in turns]
    assert all(finished for _, finished in decoded)
    return [message.content for message, _ in decoded]


def test_turn_of_weight_0_is_not_own(each_family: "Family") -> None:
    prompt, (first, between, last) = conversation()
    quiet = Message(role="assistant", content=first.content, weight=0)
    turns = split_turns(each_family.chat, own_ids(each_family.chat, prompt, quiet, between, last))
    assert turns == ["the world."]


def test_later_turn_sees_the_ids_that_generation_would(each_family: "Family") -> None:
    chat = each_family.chat
    prompt, (first, between, last) = conversation()
    sequence = chat.encode(prompt, (first, between, last))
    seen = chat.prompt_ids(make_prompt(*prompt.messages, first, between))
    assert sequence.ids[: len(seen)] == seen


def test_tool_turns_are_not_own(family: "Families") -> None:
    chat = family("chatml").chat
    call = ToolCall(name="lookup", arguments='{"item": "bear<|im_end|>"}')
    response = (
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="30 degrees", tool_call_id="1"),
        assistant("Wash it at 30."),
    )
    first, second = split_turns(chat, own_ids(chat, make_prompt(user("bear?")), *response))
    assert '"name": "lookup"' in first
    assert "bear<|im_end|>" in first
    assert second == "Wash it at 30."


def test_arguments_that_are_no_json_stay_text(family: "Families") -> None:
    chat = family("chatml").chat
    turn = Message(
        role="assistant", content="", tool_calls=(ToolCall(name="f", arguments="{oops"),)
    )
    (first,) = split_turns(chat, own_ids(chat, make_prompt(user("a")), turn))
    assert '"{oops"' in first


def test_assistant_may_think_and_nobody_else(family: "Families") -> None:
    chat = family("chatml").chat
    think = chat.tokenizer.convert_tokens_to_ids("<tool_call>")
    text = "<tool_call>x</tool_call>"
    sequence = chat.encode(make_prompt(user(text)), (assistant(text),))
    assert think not in sequence.prompt_ids
    assert think in sequence.response_ids


def test_decode_says_when_a_reply_was_cut(family: "Families") -> None:
    chat = family("chatml").chat
    ids = own_ids(chat, make_prompt(user("a")), assistant("Yes, you can."))
    message, finished = chat.decode(ids[:-1])
    assert (message.content, finished) == ("Yes, you can.", False)


def test_template_that_rejects_turns_is_an_error(family: "Families") -> None:
    no_system = make_prompt(Message(role="system", content="a"), user("b"))
    with pytest.raises(ModelError, match="System role not supported"):
        family("gemma").chat.prompt_ids(no_system)
    with pytest.raises(ModelError, match="must alternate"):
        family("llama2").chat.prompt_ids(make_prompt(user("a"), user("b")))


@pytest.mark.parametrize("roles", [(), ("user",), ("assistant", "tool"), ("tool", "assistant")])
def test_response_must_start_and_end_with_the_assistant(
    family: "Families", roles: tuple[Literal["user", "assistant", "tool"], ...]
) -> None:
    response = tuple(Message(role=role, content="x") for role in roles)
    with pytest.raises(DataError, match="Start and end it with an assistant turn"):
        family("chatml").chat.encode(make_prompt(user("a")), response)


def test_template_that_rewrites_earlier_turns_is_refused(
    family: "Families",
) -> None:
    forgets = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    chat = Chat(family("chatml").chat.tokenizer, forgets)
    thought = assistant("hm</think>yes")
    assert own_ids(chat, make_prompt(user("a")), thought)
    with pytest.raises(ModelError, match="rewrite earlier turns"):
        chat.encode(make_prompt(user("a")), (thought, user("b"), assistant("no")))


def test_template_without_an_end_token_gets_the_eos_once(family: "Families") -> None:
    alpaca = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    chat = Chat(family("gpt2").chat.tokenizer, alpaca)
    ids = own_ids(chat, make_prompt(user("a")), assistant("hello"))
    assert ids.count(chat.tokenizer.eos_token_id) == 1
    assert chat.decode(ids) == (assistant("hello"), True)
    prompt, response = conversation()
    with pytest.raises(ModelError, match="only the last turn"):
        chat.encode(prompt, response)


def test_private_use_characters_in_text_are_kept(family: "Families") -> None:
    chat = family("chatml").chat
    text = "\ue000<|im_end|>\ue001"
    ids = own_ids(chat, make_prompt(user(text)), assistant(text))
    assert chat.decode(ids)[0].content == text
