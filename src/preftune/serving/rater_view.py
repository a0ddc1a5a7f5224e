"""What a rater's page is told of an item: the texts, and nothing that says who wrote them.

No name of a model, no way of sampling, no tag, no id of a prompt, a comparison or a response; no
known answer; and of an item's use only that it teaches, which its feedback gives away anyway.
"""

import string
from dataclasses import dataclass

import msgspec

from preftune.serving.safe_markdown import Tree, safe_markdown
from preftune.store.projects import Project
from preftune.store.queue import Task
from preftune.types import Message, Prompt

LABELS = string.ascii_uppercase


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownCall:
    """A tool call: its name, and its arguments as the model wrote them."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    text: str
    tool: str = ""  # whose result this is
    calls: tuple[ShownCall, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownResponse:
    """A response as it stands on the page."""

    label: str  # A, B, C, … in the order shown
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTask:
    """An item before a rater, and what is asked about it."""

    item_id: str
    round: int
    kind: str
    is_calibration: bool
    prompt: tuple[Turn, ...]
    tools: tuple[str, ...]  # each as indented JSON
    responses: tuple[ShownResponse, ...]
    dimensions: tuple[str, ...]
    tie: bool
    reasons: tuple[str, ...]
    guideline: int  # version; 0: none written yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The texts of an item as Markdown: one tree for each turn, in their order."""

    prompt: list[Tree]
    responses: list[list[Tree]]


def shown_task(task: Task, where: Project) -> ShownTask:
    """Return what the page is told of a task.

    Two tasks that differ in generator, sampling, tags or ids alone give the same.
    """
    prompt = task.content.prompt
    return ShownTask(
        item_id=task.item_id,
        round=task.round,
        kind=task.kind,
        is_calibration=task.use == "calibration",
        prompt=_turns(prompt.messages),
        tools=_tools(prompt),
        responses=tuple(
            ShownResponse(label=label, turns=_turns(response.messages))
            for label, response in zip(LABELS, task.content.responses, strict=False)
        ),
        dimensions=where.settings.dimensions,
        tie=where.settings.tie,
        reasons=where.settings.reasons,
        guideline=task.guideline,
    )


def rendered(task: Task) -> Rendered:
    """Return the texts of a task as Markdown.

    Raises:
        DataError: a text is too long to be rendered.
    """
    content = task.content
    return Rendered(
        prompt=[safe_markdown(message.content) for message in content.prompt.messages],
        responses=[
            [safe_markdown(message.content) for message in response.messages]
            for response in content.responses
        ],
    )


def excerpt(prompt: Prompt, characters: int = 140) -> str:
    """Return the beginning of what the user asked last, on one line."""
    asked = [message.content for message in prompt.messages if message.role == "user"]
    text = " ".join((asked or [m.content for m in prompt.messages] or [""])[-1].split())
    return text if len(text) <= characters else f"{text[:characters].rstrip()}…"


def _turns(messages: tuple[Message, ...]) -> tuple[Turn, ...]:
    return tuple(
        Turn(
            role=message.role,
            text=message.content,
            tool=(message.name or "") if message.role == "tool" else "",
            calls=tuple(
                ShownCall(name=call.name, arguments=call.arguments) for call in message.tool_calls
            ),
        )
        for message in messages
    )


def _tools(prompt: Prompt) -> tuple[str, ...]:
    return tuple(
        msgspec.json.format(msgspec.json.encode(tool), indent=2).decode() for tool in prompt.tools
    )
