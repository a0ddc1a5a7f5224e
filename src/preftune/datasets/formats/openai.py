"""OpenAI preference JSON Lines: `input`, `preferred_output`, `non_preferred_output`.

Source: platform.openai.com/docs/guides/direct-preference-optimization.
"""

from preftune.datasets.formats.columns import make_pair
from preftune.datasets.formats.messages import prompt_of, write_messages, write_tools
from preftune.datasets.formats.row import Format
from preftune.datasets.scanned import Problem
from preftune.fields import Row, mapping, need
from preftune.messages import Notes, read_messages
from preftune.types import PreferencePair

_INPUT = frozenset({"messages", "tools", "parallel_tool_calls"})


def _read(row: Row, notes: Notes) -> PreferencePair:
    asked = mapping(need(row, "input"), "input")
    for name in sorted(asked.keys() - _INPUT):
        what, fix = (
            f"input has an unknown field {name!r}, not kept",
            "Nothing to do if that is meant.",
        )
        notes.append(Problem(kind="unknown_field", what=what, fix=fix, fatal=False))
    prompt = prompt_of(read_messages(need(asked, "messages"), "input.messages", notes), asked)
    chosen = read_messages(need(row, "preferred_output"), "preferred_output", notes)
    rejected = read_messages(need(row, "non_preferred_output"), "non_preferred_output", notes)
    return make_pair({}, prompt, chosen, rejected)


def _write(pair: PreferencePair) -> Row:
    return {
        "input": {"messages": write_messages(pair.prompt.messages), **write_tools(pair.prompt)},
        "preferred_output": write_messages(pair.chosen),
        "non_preferred_output": write_messages(pair.rejected),
    }


OPENAI = Format(
    name="openai",
    kind=PreferencePair,
    holds="pairs as OpenAI's preference fine-tuning takes them",
    needs=("input", "preferred_output", "non_preferred_output"),
    known=frozenset({"input", "preferred_output", "non_preferred_output"}),
    read=_read,
    write=_write,
)
