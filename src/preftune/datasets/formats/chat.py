"""Chat JSON Lines for SFT: `{"messages": […], "tools": […]}`, assistant turns with `weight` 0 or 1.

The response is what follows the last user or system turn; all before it is the prompt.

Source: platform.openai.com/docs/guides/supervised-fine-tuning.
"""

from preftune.datasets.formats.columns import make_demonstration
from preftune.datasets.formats.messages import prompt_of, write_messages, write_tools
from preftune.datasets.formats.row import Format
from preftune.fields import Row, need
from preftune.messages import Notes, read_messages
from preftune.types import Demonstration


def _read(row: Row, notes: Notes) -> Demonstration:
    messages = read_messages(need(row, "messages"), "messages", notes)
    asked = [i for i, message in enumerate(messages) if message.role in ("user", "system")]
    start = asked[-1] + 1 if asked else 0
    return make_demonstration({}, prompt_of(messages[:start], row), messages[start:])


def _write(record: Demonstration) -> Row:
    messages = record.prompt.messages + record.response
    return {"messages": write_messages(messages), **write_tools(record.prompt)}


CHAT = Format(
    name="chat",
    kind=Demonstration,
    holds="conversations to imitate (SFT), as OpenAI's fine-tuning takes them",
    needs=("messages",),
    known=frozenset({"messages", "tools", "parallel_tool_calls"}),
    read=_read,
    write=_write,
    fits=lambda row: not row.keys() & {"chosen", "rejected", "responses"},
)
