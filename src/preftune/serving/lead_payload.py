"""What the lead's pages may send, and what they hear."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Path
from pydantic import Field

from preftune.serving.web import Line, Payload
from preftune.store.items import Use
from preftune.store.labels import LONGEST_REWRITE, LONGEST_WHY
from preftune.store.projects import MemberState

LARGEST = 2**53 - 1  # a whole number that every database and browser holds
ItemId = Annotated[str, Path(max_length=64)]
UserId = Annotated[str, Path(max_length=64)]
Seal = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
Number = Annotated[int, Path(ge=1, le=LARGEST)]
Short = Annotated[str, Field(max_length=100)]
Why = Annotated[str, Field(max_length=LONGEST_WHY)]
Answers = Annotated[
    dict[Short, Annotated[str, Field(max_length=LONGEST_REWRITE)]], Field(max_length=20)
]
Amount = Annotated[float, Field(ge=-1e9, le=1e9)]
Value = bool | Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)] | Amount | Short


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """It is done: what to say, and the page to go to; empty: the same page anew."""

    message: str
    next: str = ""


class Sheet(Payload):
    """All settings of a project by their names."""

    settings: Annotated[
        dict[Short, Value | Annotated[list[Short], Field(max_length=50)]], Field(max_length=30)
    ]


class Text(Payload):
    """A guideline as it is being written."""

    text: Annotated[str, Field(max_length=200_000)]


class Publish(Text):
    """A guideline to let hold, and the version that its author started from."""

    base: Annotated[int, Field(ge=0, le=1_000_000_000)]


class Piece(Payload):
    """Some lines of a file: comparisons, or responses to be rewritten with their prompts."""

    name: Line
    first_line: Annotated[int, Field(ge=1, le=LARGEST)]
    lines: Annotated[list[str], Field(max_length=5000)]
    # those that the responses belong to
    prompts: Annotated[list[str], Field(max_length=5000, default_factory=list)]


class Withdraw(Payload):
    """Items that are shown no more."""

    items: Annotated[list[Short], Field(min_length=1, max_length=1000)]


class Mark(Payload):
    """What an item is for, with the right answers."""

    use: Use
    answers: Annotated[Answers, Field(default_factory=dict)]
    why: Why = ""


class Settle(Payload):
    """A lead's last word, on responses in the order shown to them."""

    answers: Annotated[Answers, Field(default_factory=dict)]
    why: Why = ""


class State(Payload):
    """Whether a rater works on."""

    state: MemberState


class Freeze(Payload):
    """A dataset to be made."""

    name: Line
    policy: Short
