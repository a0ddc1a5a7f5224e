"""Rows for reinforcement fine-tuning, as OpenAI's API takes them: messages, and the item.

`{"messages": […], "answer": "18"}` is a prompt whose item is `{"answer": "18"}`; a grader's
template finds it as `{{ item.answer }}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preftune.errors import RowError
from preftune.fields import mapping, need
from preftune.files import open_binary
from preftune.graders.sample import Item
from preftune.lines import Problem, RawRow, RefusedError, guarded, head_of, json_rows
from preftune.messages import read_messages, read_tools
from preftune.types import Prompt, make_prompt

MOST_ROWS = 50_000  # of a training file; OpenAI's
OF_THE_PROMPT = {"messages", "tools", "parallel_tool_calls"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RftRow:
    """One prompt and what is known of its right answer."""

    prompt: Prompt
    item: Item
    notes: tuple[Problem, ...] = ()  # what is odd and read all the same


def read_rft_rows(path: Path, *, most: int = MOST_ROWS) -> list[RftRow]:
    """Return the rows of a JSON Lines file, in its order.

    Raises:
        DataError: no such file, or an empty one.
        RowError: a line that is no such row, whose last message is not the user's, that asks what
            an earlier one asks with another item, or more than `most` lines.
    """
    head_of(path)
    found: list[RftRow] = []
    line_of: dict[str, int] = {}
    for raw in guarded(path, file := open_binary(path), json_rows(file)):
        try:
            row = _row(raw, path.name)
        except RefusedError as refusal:
            raise RowError(path, raw.line, *_words(refusal)) from refusal
        if len(found) == most:
            raise RowError(path, raw.line, f"more than {most} rows", "Split the file.")
        first = line_of.setdefault(row.prompt.id, raw.line)
        if found[first - 1 :] and found[first - 1].item != row.item:
            what = f"asks what line {first} asks, with another item"
            raise RowError(path, raw.line, what, "Keep one of them.")
        found.append(row)
    return found


def items_of(rows: Sequence[RftRow]) -> Mapping[str, Item]:
    """Return the item of each prompt by the prompt's id."""
    return {row.prompt.id: row.item for row in rows}


def _row(raw: RawRow, source: str) -> RftRow:
    if raw.refusal is not None:
        raise raw.refusal
    row, notes = mapping(raw.row, "the line"), list[Problem]()
    messages = read_messages(need(row, "messages"), "messages", notes)
    if messages[-1].role != "user":
        what = f"the last message has role {messages[-1].role!r}"
        raise RefusedError("wrong_last_role", what, "End with the user's message.")
    tools = read_tools(row["tools"]) if row.get("tools") is not None else ()
    item = {name: value for name, value in row.items() if name not in OF_THE_PROMPT}
    prompt = make_prompt(*messages, tools=tools, source=source)
    return RftRow(prompt=prompt, item=item, notes=tuple(notes))


def _words(refusal: RefusedError) -> tuple[str, str]:
    return refusal.problem.what, refusal.problem.fix
