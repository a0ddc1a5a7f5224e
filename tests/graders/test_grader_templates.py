"""Templates: what they name, what they refuse, and that nothing is read twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import SettingsError
from preftune.graders.results import GradingError
from preftune.graders.sample import Sample
from preftune.graders.templates import parse_template
from preftune.types import Message, ToolCall

CALL = ToolCall(id="c1", name="lookup", arguments='{"city": "Oslo"}')
SAMPLE = Sample(output_text='{"steps": [{"result": 7}], "done": true}', output_tools=(CALL,))
ITEM = {"answer": "18", "n": 18, "deep": {"list": [{"a-b": None}, "x"]}, "odd name": 1.5}


def filled(text: str) -> str:
    return parse_template(text).fill(SAMPLE, ITEM)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain { } text", "plain { } text"),
        ("{{item.answer}} and {{ item.n }}", "18 and 18"),
        ("{{item.deep.list[1]}}", "x"),
        ("{{item.deep.list.1}}", "x"),
        ("{{item.deep.list[0].a-b}}", "null"),
        ("{{item['odd name']}}", "1.5"),
        ("{{sample.output_json.steps[0].result}}", "7"),
        ("{{sample.output_json.done}}", "true"),
        ("{{sample.output_tools[0].function.name}}", "lookup"),
        ("{{sample.choices[0].message.role}}", "assistant"),
        ("{{item.deep}}", '{"list": [{"a-b": null}, "x"]}'),
    ],
)
def test_template_fills_in_what_it_names(template: str, expected: str) -> None:
    assert filled(template) == expected


@pytest.mark.parametrize(
    "template",
    ["{{items.x}}", "{{ sample.output }}", "{{sample}}", "{{item.a b}}", "{{}}", "{{item[}}"],
)
def test_template_refuses_and_names_an_unknown_variable(template: str) -> None:
    with pytest.raises(SettingsError, match="unknown variable"):
        parse_template(template)


def test_template_refuses_braces_that_do_not_close() -> None:
    with pytest.raises(SettingsError, match="do not close"):
        parse_template("a {{ item.x and more")


@pytest.mark.parametrize("path", ["item.nothing", "item.answer.length", "item.deep.list[2]"])
def test_template_names_the_variable_that_is_not_there(path: str) -> None:
    with pytest.raises(GradingError, match=path.replace("[", r"\[")) as caught:
        filled(f"{{{{ {path} }}}}")
    assert caught.value.errors.kinds == ("invalid_variable_error",)


def test_output_json_of_a_sample_that_is_none_is_a_sample_error() -> None:
    with pytest.raises(GradingError) as caught:
        parse_template("{{sample.output_json.a}}").fill(Sample(output_text="not json"), {})
    assert caught.value.errors.kinds == ("sample_parse_error",)


@given(st.text())
def test_what_is_filled_in_is_never_a_template_again(text: str) -> None:
    hostile = f"{text}{{{{ item.secret }}}}"
    item = {"answer": hostile, "secret": "S"}
    assert parse_template("<{{item.answer}}>").fill(SAMPLE, item) == f"<{hostile}>"


def test_sample_of_messages_joins_the_words_and_keeps_the_calls() -> None:
    messages = [
        Message(role="assistant", content="let me look", tool_calls=(CALL,)),
        Message(role="tool", content="cold", tool_call_id="c1"),
        Message(role="assistant", content="It is cold."),
    ]
    sample = Sample.of(messages)
    assert sample.output_text == "let me look\n\nIt is cold."
    assert sample.as_dict()["output_tools"][0]["function"]["arguments"] == '{"city": "Oslo"}'
    assert sample.as_dict()["output_json"] is None
