"""What is asked of a chat model behind a URL, what comes back, and who asks: a protocol."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from preftune.types import Message, ToolCall


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """One question to a chat model."""

    key: str  # unique; the same key always asks the same
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int = 0  # of the first token; 0: none asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatAnswer:
    """What the model said."""

    key: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finished: bool = True  # False: cut at max_tokens
    logprobs: tuple[tuple[str, float], ...] = ()  # first token's alternatives, nats
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""  # as the server names itself


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFailure:
    """Why a question has no answer, after every retry that made sense."""

    key: str
    reason: str  # what the caller shows; never holds a secret


class ChatClient(Protocol):
    """Asks chat models."""

    @property
    def name(self) -> str:
        """`model@host`; goes into provenance."""

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        """Yield answers and failures as they come, each key exactly once."""
