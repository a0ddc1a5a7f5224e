"""Which templates only copy contents: those alone are rendered once for many rows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from preftune.models.chat import Chat
from preftune.models.templates import COMPACT, FALLBACK, copies_contents
from preftune.types import Message, Prompt, assistant, make_prompt, user

if TYPE_CHECKING:
    from tests.models.conftest import Family

    Families = Callable[[str], Family]

CHATML_OF_QWEN = """\
{%- if tools %}{{- tools | tojson }}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}{{- call.arguments | tojson }}{%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif loop.last or messages[loop.index0 + 1].role != "tool" %}{{- message.content }}
    {%- endif %}
{%- endfor %}
"""
HARMLESS = {
    "compact": COMPACT,
    "fallback": FALLBACK,
    "qwen": CHATML_OF_QWEN,
    "trims": "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    "sets": "{% set c = messages[0].content %}{{ 'a' ~ c }}",
    "slices": "{% set rest = messages[1:] %}{% for m in rest %}{{ m.content }}{% endfor %}",
    "asks for text": "{% if messages[0].content is string %}{{ messages[0].content }}{% endif %}",
    "asks for none": "{% if messages[0].content != none %}{{ messages[0].content }}{% endif %}",
    "asks for a field": "{% if 'name' in messages[0] %}x{% endif %}",
    "turn before": "{% for m in messages %}{% if loop.previtem %}{{ loop.previtem.content }}"
    "{% endif %}{% endfor %}",
}
LOOKS_INSIDE = {
    "length": "{{ messages[0].content | length }}",
    "in": "{% if 'x' in messages[0].content %}a{% endif %}",
    "equal": "{% if messages[0].content == 'x' %}a{% endif %}",
    "slice": "{{ messages[0].content[1:] }}",
    "split": "{{ messages[0].content.split('</think>')[-1] }}",
    "later name": "{% set x = messages[0].content %}{% if x == 'a' %}b{% endif %}",
    "earlier name": "{% for m in messages %}{{ x | upper }}{% set x = m.content %}{% endfor %}",
    "upper": "{{ messages[0].content | upper }}",
    "trim of letters": "{{ messages[0].content | trim('x') }}",
    "trim of letters by name": "{{ messages[0].content | trim(chars='x') }}",
    "letters": "{% for c in messages[0].content %}{{ c }}{% endfor %}",
    "percent": "{{ '%s' % messages[0].content }}",
    "times": "{{ messages[0].content * 2 }}",
    "json": "{{ messages | tojson }}",
    "get": "{{ messages[0].get('content') }}",
    "get later": "{% set f = messages[0].get %}{{ f('content') }}",
    "items": "{% for k, v in messages[0].items() %}{{ v | upper }}{% endfor %}",
    "item by name": "{{ messages[0]['items']() }}",
    "built name": "{{ messages[0]['con' ~ 'tent'] | upper }}",
    "key from a loop": "{% for k in messages[0] %}{{ messages[0][k] }}{% endfor %}",
    "whole turn": "{{ messages[0] }}",
    "same turns": "{% if messages[0] == messages[1] %}x{% endif %}",
    "turn before": "{% for m in messages %}{{ loop.previtem.content | upper }}{% endfor %}",
    "loop by name": "{% for m in messages %}{% set l = loop %}{{ l.nextitem }}{% endfor %}",
    "changed": "{% for m in messages %}{% if loop.changed(m.content) %}x{% endif %}{% endfor %}",
    "namespace": "{% set ns = namespace(a=1) %}{% set ns.a = messages[0].content %}{{ ns.a }}",
    "dict": "{{ dict(messages[0]) }}",
    "list": "{{ [messages[0].content] }}",
    "macro": "{% macro f(m) %}{{ m.content }}{% endmacro %}{{ f(messages[0]) }}",
    "block": "{% set x %}{{ messages[0].content }}{% endset %}{{ x | upper }}",
    "clock": "{{ strftime_now('%d') }}",
    "clock by name": "{% set now = strftime_now %}{{ now('%d') }}",
    "chance": "{{ ['a', 'b'] | random }}",
    "raises": "{% if raise_exception(messages[0].content) %}{% endif %}",
}


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_template_that_copies_contents_is_known(name: str) -> None:
    assert copies_contents(HARMLESS[name])


@pytest.mark.parametrize("name", sorted(LOOKS_INSIDE))
def test_template_that_looks_inside_is_rendered_for_each_row(name: str) -> None:
    assert not copies_contents(LOOKS_INSIDE[name])


def test_templates_of_all_families_copy(each_family: "Family") -> None:
    assert copies_contents(each_family.chat.template)


def test_ids_depend_on_contents_where_the_template_does(family: "Families") -> None:
    polite = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}"
        "{% if m.content == 'please' %}{{ ' !' }}{% endif %}{{ '\\n' + m.content + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    chat = Chat(family("chatml").chat.tokenizer, polite)
    rows: list[tuple[Prompt, tuple[Message, ...]]] = [
        (make_prompt(user(word)), (assistant("yes"),)) for word in ("now", "please", "later")
    ]
    texts = [chat.tokenizer.decode(sequence.prompt_ids) for sequence in chat.encode_all(rows)]
    assert [" !" in text for text in texts] == [False, True, False]


def test_hash_of_tokens_changes_with_template_and_tokenizer(family: "Families") -> None:
    chat = family("chatml").chat
    other = Chat(chat.tokenizer, chat.template + " ")
    hashes = {family(name).chat.tokens_hash for name in ("chatml", "gpt2", "llama3")}
    assert len({*hashes, other.tokens_hash}) == 4
    assert Chat(chat.tokenizer, chat.template).tokens_hash == chat.tokens_hash


def test_template_with_a_clock_has_no_hash(family: "Families") -> None:
    chat = family("chatml").chat
    dated = "{% if messages | length > 99 %}{{ strftime_now('%d') }}{% endif %}" + chat.template
    assert Chat(chat.tokenizer, dated).tokens_hash is None
