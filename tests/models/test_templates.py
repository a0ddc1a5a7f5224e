"""Templates from strangers: refused or stopped, never obeyed."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from preftune.errors import ModelError
from preftune.models.chat import Chat
from preftune.models.templates import check_template
from preftune.types import make_prompt, user

if TYPE_CHECKING:
    from tests.models.conftest import Family

HEADER = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def tokenizer(family: "Callable[[str], Family]") -> object:
    return family("chatml").chat.tokenizer


def test_endless_loop_is_stopped_soon(tokenizer: object) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match="runs longer than 1 s"):
        Chat(tokenizer, LOOP + HEADER)
    assert time.monotonic() - began < 10
    assert sys.gettrace() is None or "on_call" not in repr(sys.gettrace())


def test_loop_that_waits_for_a_long_chat_is_stopped_too(tokenizer: object) -> None:
    chat = Chat(tokenizer, "{% if messages | length > 4 %}" + LOOP + "{% endif %}" + HEADER)
    chat.prompt_ids(make_prompt(user("a")))
    with pytest.raises(ModelError, match="runs longer than 1 s"):
        chat.prompt_ids(make_prompt(*[user("a")] * 5))


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' * 9999999999 }}",
        "{% set n = 99999 %}{{ 'a' * n }}",
        "{% set n = 9 * 9 * 9 %}",
        "{{ 2 ** 2 }}",
    ],
)
def test_multiplying_without_bound_is_refused_unread(bomb: str) -> None:
    with pytest.raises(ModelError, match="line 1: multiplies without bound"):
        check_template(bomb, where="x")


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['os'].system('touch canary') }}",
        "{{ messages.append(1) }}",
        "{{ (namespace.__init__ | attr('__globals__'))['x'] }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_way_out_of_the_sandbox_is_refused(tokenizer: object, escape: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        Chat(tokenizer, escape + HEADER)


def test_template_that_is_no_jinja_names_its_line() -> None:
    with pytest.raises(ModelError, match="base: chat template, line 2: "):
        check_template("a\n{% for %}", where="base")


def test_ordinary_forms_pass() -> None:
    check_template(
        "{{ ' ' * 4 }}{% generation %}x{% endgeneration %}{% for a in b %}{% break %}{% endfor %}",
        where="x",
    )


def test_template_that_leaves_the_answer_out_is_refused(tokenizer: object) -> None:
    with pytest.raises(ModelError, match="leaves the answer out"):
        Chat(tokenizer, "{{ messages[0].content }}<|im_end|>")


def test_template_hash_follows_the_template(tokenizer: object) -> None:
    hashes = {Chat(tokenizer, text).template_hash for text in (HEADER, HEADER + " ", HEADER)}
    assert len(hashes) == 2
