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

DEADLINE_S = 1.0  # of the processor: a busy machine makes no template endless
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


def copies_contents(template: str) -> bool:
    """Whether the template writes every content as it is, and never looks at what it says.

    Contents are taken to be text with no blank at either end, so they are never empty and trimming
    leaves them alone. Then the text of one conversation gives the text of any other with the same
    roles: put the other contents in. A template that isn't understood whole is answered False.
    """
    reading = _Reading()
    try:
        tree = _parse(template)
        known = None
        while known != reading.kinds:  # a name may be used before the line that sets it
            known = dict(reading.kinds)
            reading.body(tree.body)
    except _LooksInsideError:
        return False
    return True


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


class _LooksInsideError(Exception):
    """The template does more with a content, or with a whole turn, than to write it."""


PLAIN, TEXT, TURNS = 0, 1, 2  # what a value may hold: no content; one; turns with their contents
FIXED_TESTS = {"defined", "undefined", "none", "string", "mapping", "iterable", "sequence"}
"""Tests whose answer is the same for all texts."""
METHODS = {*dir(list), *dir(dict)}
NOT_FIXED = {"strftime_now", "lipsum", "random"}
"""Names of what gives another text the next time."""


class _Reading:
    """Reads a template and follows where contents go."""

    def __init__(self) -> None:
        self.kinds = {"messages": TURNS}  # of names; those not in it are PLAIN

    def body(self, statements: Sequence[nodes.Node]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: nodes.Node) -> None:
        match node:
            case nodes.Output():
                self._joined([n for n in node.nodes if not isinstance(n, nodes.TemplateData)])
            case nodes.If():
                self._kind(node.test)
                for branch in (node.body, node.elif_, node.else_):
                    self.body(branch)
            case nodes.For():
                self._loop(node)
            case nodes.Assign():
                self._assign(node.target, self._kind(node.node))
            case nodes.Break() | nodes.Continue():
                pass
            case _:
                raise _LooksInsideError

    def _loop(self, node: nodes.For) -> None:
        kind = self._kind(node.iter)
        _refuse_unless(kind != TEXT)
        self._assign(node.target, kind)
        if node.test is not None:
            self._kind(node.test)
        self.body(node.body)
        self.body(node.else_)

    def _assign(self, target: nodes.Node, kind: int) -> None:
        if isinstance(target, nodes.Name):
            before = self.kinds.get(target.name, PLAIN)
            _refuse_unless({before, kind} != {TEXT, TURNS})
            self.kinds[target.name] = max(before, kind)
        else:
            _refuse_unless(kind == PLAIN)

    def _kind(self, node: nodes.Node) -> int:
        """Return what the value of an expression may hold."""
        match node:
            case nodes.Name():
                _refuse_unless(node.name not in {"loop", *NOT_FIXED})
                return self.kinds.get(node.name, PLAIN)
            case nodes.Getattr() | nodes.Getitem():
                return self._part(node)
            case nodes.Add() | nodes.Concat():
                return self._joined(list(node.iter_child_nodes()))
            case nodes.And() | nodes.Or() | nodes.CondExpr():
                return self._one_of(node)
            case nodes.Compare():
                return self._compared(node)
        return self._filtered(node)

    def _part(self, node: nodes.Getattr | nodes.Getitem) -> int:
        """Return the kind of `turns[0]`, `turn.role`, `turn['content']` and the like."""
        key = nodes.Const(node.attr) if isinstance(node, nodes.Getattr) else node.arg
        name = key.value if isinstance(key, nodes.Const) else None
        if isinstance(node.node, nodes.Name) and node.node.name == "loop":
            _refuse_unless(name is not None)
            return TURNS if name in ("previtem", "nextitem") else PLAIN
        kind = self._kind(node.node)
        _refuse_unless(self._kind(key) == PLAIN)
        if kind == PLAIN:
            return PLAIN
        _refuse_unless(kind == TURNS and name not in METHODS)
        if isinstance(name, str):
            return TEXT if name == "content" else PLAIN
        _refuse_unless(_is_place(key))
        return TURNS

    def _joined(self, parts: Sequence[nodes.Node]) -> int:
        kinds = {PLAIN, *map(self._kind, parts)}
        _refuse_unless(TURNS not in kinds)
        return max(kinds)

    def _one_of(self, node: nodes.Node) -> int:
        kinds = {self._kind(child) for child in node.iter_child_nodes()}
        _refuse_unless(not {TEXT, TURNS} <= kinds)
        return max(kinds)

    def _compared(self, node: nodes.Compare) -> int:
        """Allow `role == 'user'`, `'tool_calls' in turn`, and a content beside none or ''."""
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        kinds = [self._kind(side) for side in sides]
        beside_nothing = any(isinstance(s, nodes.Const) and s.value in (None, "") for s in sides)
        in_turn = node.ops[0].op in ("in", "notin") and kinds == [PLAIN, TURNS]
        _refuse_unless(max(kinds) == PLAIN or in_turn or (beside_nothing and len(sides) == 2))
        return PLAIN

    def _filtered(self, node: nodes.Node) -> int:
        """Allow a few tests and filters on contents; anything else only where none comes in."""
        children = list(node.iter_child_nodes())
        name = node.name if isinstance(node, nodes.Filter | nodes.Test) else ""
        _refuse_unless(name not in NOT_FIXED)
        if len(children) == 1 and isinstance(node, nodes.Filter) and name == "trim":
            return self._joined(children)
        if len(children) == 1 and isinstance(node, nodes.Filter) and name in ("length", "count"):
            _refuse_unless(self._kind(children[0]) != TEXT)
            return PLAIN
        asks_nothing = isinstance(node, nodes.Test) and name in FIXED_TESTS
        if len(children) == 1 and (asks_nothing or isinstance(node, nodes.Not)):
            self._kind(children[0])
            return PLAIN
        return self._plain(node)

    def _plain(self, node: nodes.Node) -> int:
        for child in node.iter_child_nodes():
            _refuse_unless(self._kind(child) == PLAIN)
        return PLAIN


def _is_place(key: nodes.Node) -> bool:
    """Whether a key is a number or a slice; a key of letters could be `content`."""
    if isinstance(key, nodes.Add):
        return _is_place(key.left) or _is_place(key.right)
    if isinstance(key, nodes.Const):
        return isinstance(key.value, int)
    return isinstance(key, nodes.Slice | nodes.Neg | nodes.Sub)


def _refuse_unless(harmless: bool) -> None:
    if not harmless:
        raise _LooksInsideError


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
    end = time.thread_time() + seconds

    def on_line(_frame: FrameType, _event: str, _argument: object) -> Any:
        if time.thread_time() > end:
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
