"""One conversation: equal values, equal numbers; nothing else is touched; twice is once."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.prompts.names import announced_names
from preftune.prompts.recognise import Recogniser, Span, patterns
from preftune.prompts.redact import Redactor
from preftune.types import Message, Prompt, ToolCall, assistant, make_prompt, user

PATTERNS = patterns(("US", "GB"))
PLACEHOLDER = re.compile(r"\[[A-Z_]+_[0-9]+\]")


def redactor(names: Recogniser = announced_names) -> Redactor:
    return Redactor(patterns=PATTERNS, names=names, replaced=Counter())


def test_equal_values_get_one_number_and_others_the_next() -> None:
    one = redactor()
    clean = one.text("a@x.de B@x.de A@X.DE +44 20 7946 0958, +442079460958")
    assert clean == "[EMAIL_1] [EMAIL_2] [EMAIL_1] [PHONE_1], [PHONE_1]"
    assert one.text("b@x.de") == "[EMAIL_2]"
    assert redactor().text("b@x.de") == "[EMAIL_1]"  # another conversation
    assert one.replaced == {"EMAIL": 4, "PHONE": 2}


def test_all_parts_of_a_prompt_are_redacted_with_the_same_numbers() -> None:
    call = ToolCall(id="c", name="mail", arguments='{"to":"a@x.de", "n": 4111111111111111}')
    prompt = make_prompt(
        Message(role="system", content="Forward to a@x.de"),
        Message(role="user", content="I am b@x.de", name="Bob"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content='{"sent": ["a@x.de"], "ok": true}', tool_call_id="c"),
        tools=({"function": {"name": "mail", "description": "ask a@x.de"}},),
        tags=("from:b@x.de", "seen:4155552671"),
    )
    clean = redactor().prompt(prompt)
    system, asked, called, told = clean.messages
    assert (system.content, asked.content) == ("Forward to [EMAIL_1]", "I am [EMAIL_2]")
    assert asked.name == "NAME_1"
    assert called.tool_calls[0].arguments == '{"to":"[EMAIL_1]", "n": "[CARD_1]"}'
    assert json.loads(called.tool_calls[0].arguments) == {"to": "[EMAIL_1]", "n": "[CARD_1]"}
    assert told.content == '{"sent": ["[EMAIL_1]"], "ok": true}'
    assert clean.tools[0]["function"]["description"] == "ask [EMAIL_1]"
    assert clean.tags == ("from:[EMAIL_2]", "seen:4155552671")
    assert clean.id == make_prompt(*clean.messages, tools=clean.tools).id != prompt.id


def test_name_announced_late_is_replaced_in_earlier_turns_too() -> None:
    prompt = make_prompt(
        user("Ana here, the McDonald order"),
        assistant("Who?"),
        user("my name is Ana McDonald, ANA for short. banana"),
    )
    texts = [m.content for m in redactor().prompt(prompt).messages]
    assert texts == [
        "[NAME_1] here, the [NAME_1] order",
        "Who?",
        "my name is [NAME_1], [NAME_1] for short. banana",
    ]


def test_response_has_the_numbers_of_its_prompt_and_names_go_both_ways() -> None:
    one = redactor()
    one.learn((assistant("Dear Zoe, noted."),))
    prompt = one.prompt(make_prompt(user("Zoe wrote from a@x.de")))
    answer = one.messages((assistant("Dear Zoe, a@x.de and b@x.de noted."),))
    assert prompt.messages[0].content == "[NAME_1] wrote from [EMAIL_1]"
    assert answer[0].content == "Dear [NAME_1], [EMAIL_1] and [EMAIL_2] noted."


def test_new_values_take_numbers_that_no_placeholder_has() -> None:
    prompt = make_prompt(user("[EMAIL_3] and [EMAIL_1]"), user("a@x.de"))
    clean = redactor().prompt(prompt)
    assert clean.messages[1].content == "[EMAIL_4]"


def test_plugged_in_recogniser_finds_names_beside_the_patterns() -> None:
    def planets(text: str, /) -> Iterator[Span]:
        for match in re.finditer("Mars|Venus", text):
            yield Span(start=match.start(), end=match.end(), kind="PLANET")

    text = redactor(planets).text("From Mars, Dear Bob, to Venus and Mars: a@x.de")
    assert text == "From [PLANET_1], Dear Bob, to [PLANET_2] and [PLANET_1]: [EMAIL_1]"


@pytest.mark.parametrize("span", [(0, 0, "X"), (-1, 2, "X"), (1, 99, "X"), (0, 2, "x"), (0, 1, "")])
def test_recogniser_that_gives_nonsense_is_named(span: tuple[int, int, str]) -> None:
    def broken(text: str, /) -> list[Span]:
        return [Span(start=span[0], end=span[1], kind=span[2])]

    with pytest.raises(DataError, match=r"recogniser .*broken: gave characters"):
        redactor(broken).text("some text")


def test_arguments_that_are_no_json_are_redacted_as_text() -> None:
    call = ToolCall(name="f", arguments='{"to": "a@x.de"')
    message = Message(role="assistant", content="", tool_calls=(call,))
    (clean,) = redactor().messages((message,))
    assert clean.tool_calls[0].arguments == '{"to": "[EMAIL_1]"'


BITS = (
    "my name is ", "Dear ", "Mr ", "Bob", "bob", "Ana Smith", "a@x.de", "b.c@y.org", " ", "\n",
    "4111 1111 1111 1111", "+44 20 7946 0958", "(415) 555-2671", "10.0.0.1", "[EMAIL_2]", "[", "]",
    "12 Baker Street", "DE89 3704 0044 0532 0130 00", "1009", "1", "thanks\n",
)  # fmt: skip
PIECES = st.lists(st.sampled_from(BITS) | st.text(max_size=6), max_size=10).map("".join)


def conversation(texts: list[str]) -> Prompt:
    arguments = json.dumps({"deep": [texts[-1], {"n": 4111111111111111}]})
    call = ToolCall(name="f", arguments=arguments)
    called = Message(role="assistant", content="", tool_calls=(call,))
    return make_prompt(*map(user, texts), called, Message(role="tool", content=arguments))


def texts_in(value: Any) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [text for one in inside for text in texts_in(one)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=40)
@given(st.lists(PIECES, min_size=1, max_size=3))
def test_redacting_twice_is_redacting_once_and_nothing_recognisable_stays(
    texts: list[str],
) -> None:
    clean = redactor().prompt(conversation(texts))
    again = redactor()
    assert again.prompt(clean) == clean
    assert not again.replaced.total()
    *turns, called, told = clean.messages
    values = json.loads(called.tool_calls[0].arguments), json.loads(told.content)
    for text in (*(turn.content for turn in turns), *texts_in(values[0]), *texts_in(values[1])):
        for piece in PLACEHOLDER.split(text):
            assert not [span for find in (*PATTERNS, announced_names) for span in find(piece)]


@given(PIECES)
def test_text_outside_the_spans_is_untouched(text: str) -> None:
    clean = redactor().text(text)
    kept = [re.escape(piece) for piece in PLACEHOLDER.split(clean)]
    assert re.fullmatch("(?s:.+?)".join(kept), text, re.DOTALL)


@given(
    st.text(
        alphabet=st.characters(exclude_categories=["Lu", "Nd", "Cs"], exclude_characters="@:"),
        max_size=80,
    )
)
def test_text_without_capitals_digits_and_at_signs_stays_as_it_is(text: str) -> None:
    without_titles = re.sub(r"(?i)name|mr|ms|called", "", text)
    assert redactor().text(without_titles) == without_titles
