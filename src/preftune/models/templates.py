"""Chat templates: our own two, and the only place where a template from outside is run.

A template is code from a stranger. transformers runs it in Jinja's immutable sandbox; here it also
gets a deadline, and the forms that eat memory before any deadline can fall are refused unread.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from preftune.errors import ModelError

DEADLINE_S = 1.0
LARGEST_FACTOR = 1000  # `' ' * 8` indents; `'x' * 10**9` eats the machine

FALLBACK = """\
{%- set names = {'system': 'System', 'user': 'User', 'assistant': 'Assistant', 'tool': 'Tool'} -%}
{%- if bos_token and bos_token != eos_token %}{{ bos_token }}{% endif -%}
{%- if tools %}{{ 'Tools:\\n' + tools | tojson + eos_token + '\\n' }}{% endif -%}
{%- for message in messages -%}
{{- names[message.role] + ':\\n' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n<tool_call>' + call.function | tojson + '</tool_call>' -}}
{%- endfor -%}
{{- eos_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif -%}
"""
"""For a tokenizer without a template: role names as text, every turn closed by its own eos."""

COMPACT = """\
{%- if tools %}{{ '<|system|>' + tools | tojson + '<|end|>' }}{% endif -%}
{%- for message in messages -%}
{{- '<|' + message.role + '|>' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n<tool_call>' + call.function | tojson + '</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif -%}
"""
"""For models made here: one special token opens a turn, one closes it."""

OURS = (FALLBACK, COMPACT)

COMPACT_TOKENS = (
    "<|unk|>",
    "<|pad|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
)


def check_template(template: str, *, where: str) -> None:
    """Refuse a template that is not Jinja or that multiplies text without bound.

    Raises:
        ModelError: with the line of the template.
    """
    try:
        tree = _parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"{where}: chat template, line {error.lineno}: {error.message}. "
            "Mend it, or give another."
        ) from error
    for node in tree.find_all((nodes.Pow, nodes.Mul)):
        if not (isinstance(node, nodes.Mul) and _small_product(node)):
            raise ModelError(
                f"{where}: chat template, line {node.lineno}: multiplies without bound. "
                f"Give one that multiplies by numbers up to {LARGEST_FACTOR} only."
            )


def literal_text(template: str) -> str:
    """Return every piece of text the template itself can write, NUL between them."""
    tree = _parse(template)
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    constants = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts + constants)


def render(
    tokenizer: Any,
    template: str,
    messages: Sequence[dict[str, Any]],
    *,
    tools: Sequence[dict[str, Any]],
    header: bool,
    where: str,
) -> str:
    """Return the conversation as the template writes it; `header` opens the next assistant turn.

    Raises:
        ModelError: the template refuses these turns (some have no system turn, or want user and
            assistant to alternate), fails, or takes longer than a second.
    """
    try:
        with nullcontext() if template in OURS else _deadline(DEADLINE_S):
            text: str = tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=template,
                add_generation_prompt=header,
                tokenize=False,
            )
    except _TooLongError as error:
        raise ModelError(
            f"{where}: chat template runs longer than {DEADLINE_S:g} s. Give another template."
        ) from error
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        MemoryError,
        OverflowError,
    ) as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ModelError(
            f"{where}: chat template refuses the turns ({roles}): {error}. "
            "Change the turns, or give another template."
        ) from error
    return text


def _parse(template: str) -> nodes.Template:
    """Read a template without running or folding any of it."""
    extensions: list[str | type[Extension]] = ["jinja2.ext.loopcontrols", _Generation]
    return jinja2.Environment(autoescape=True, extensions=extensions).parse(template)


def _small_product(node: nodes.Mul) -> bool:
    """Whether one side is a small number; the other may then be anything once."""
    if any(node.find_all(nodes.Mul)):
        return False
    sides = [side.value for side in (node.left, node.right) if isinstance(side, nodes.Const)]
    return any(isinstance(value, int | float) and value <= LARGEST_FACTOR for value in sides)


class _Generation(Extension):
    """Read `{% generation %}…{% endgeneration %}`, which marks assistant text in some templates."""

    tags = frozenset(("generation",))  # type: ignore[assignment]  # Jinja only reads it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _TooLongError(Exception):
    """The template ran past its deadline."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stop Jinja code that is still running after `seconds`; works in any thread.

    Only the frames of compiled templates are traced, so everything else runs at full speed.
    """
    end = time.monotonic() + seconds

    def on_line(_frame: FrameType, _event: str, _argument: object) -> Any:
        if time.monotonic() > end:
            raise _TooLongError
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
        return on_line if frame.f_code.co_filename in ("<template>", "<unknown>") else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)
