"""The OpenAI-compatible form of a chat request and its answer, as bytes."""

import unicodedata
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from preftune.errors import DataError
from preftune.responses.chat_client import ChatAnswer, ChatRequest
from preftune.responses.secret import hide_keys
from preftune.types import Message, ToolCall

Count = Annotated[int, Meta(ge=0)]
LONGEST_REASON = 200  # characters of a server's words that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """Which parameters a server takes; learnt from its refusals."""

    seed: bool = True
    logprobs: bool = True
    max_tokens: str = "max_tokens"

    def after(self, refusal: str) -> "Dialect":
        """Return the dialect without what the refusal names; the same one if it names nothing."""
        if "max_completion_tokens" in refusal:
            return replace(self, max_tokens="max_completion_tokens")
        if "logprobs" in refusal:
            return replace(self, logprobs=False)
        return replace(self, seed=False) if "seed" in refusal else self


class FilteredError(DataError):
    """The server says that its content filter cut the answer."""


def encode_request(request: ChatRequest, model: str, dialect: Dialect) -> bytes:
    """Return the body of a request; the same request gives the same bytes."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        dialect.max_tokens: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
    }
    if request.tools:
        body["tools"] = request.tools
    if request.seed is not None and dialect.seed:
        body["seed"] = request.seed
    if request.top_logprobs and dialect.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return msgspec.json.encode(body)


def decode_answer(body: bytes, key: str) -> ChatAnswer:
    """Return the answer; its counts of tokens are 0 when the server tells none.

    Raises:
        DataError: not a chat completion.
        FilteredError: the server's content filter cut the answer.
    """
    try:
        found = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not a chat completion: {shown(str(error))}") from None
    choice = found.choices[0]
    if choice.finish_reason == "content_filter":
        raise FilteredError("the server's content filter cut the answer")
    usage = found.usage or _Usage()
    return ChatAnswer(
        key=key,
        text=choice.message.content or choice.message.refusal or "",
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in choice.message.tool_calls or ()
        ),
        finished=choice.finish_reason != "length",
        logprobs=_first_logprobs(choice.logprobs),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        model=shown(found.model or ""),
    )


def refusal_text(body: bytes) -> str:
    """Return what an error answer says, short and harmless; empty when it says nothing readable."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    while isinstance(said, dict):
        said = next((said[name] for name in ("error", "message", "detail") if name in said), "")
    return shown(said) if isinstance(said, str) else shown(msgspec.json.encode(said).decode())


def shown(text: str) -> str:
    """Return a stranger's words in one short line: no controls that act, nothing like a key."""
    plain = "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c)[0] == "C" else c
        for c in " ".join(hide_keys(text).split())
    )
    return plain if len(plain) <= LONGEST_REASON else f"{plain[:LONGEST_REASON]}…"


class _Function(Struct):
    name: str
    arguments: str = ""


class _ToolCall(Struct):
    function: _Function
    id: str = ""


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Alternative(Struct):
    token: str
    logprob: float


class _Position(Struct):
    top_logprobs: list[_Alternative] = field(default_factory=list)


class _Logprobs(Struct):
    content: list[_Position] | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Completion(Struct):
    choices: Annotated[list[_Choice], Meta(min_length=1)]
    model: str | None = None
    usage: _Usage | None = None


_DECODER = msgspec.json.Decoder(_Completion)


def _first_logprobs(found: _Logprobs | None) -> tuple[tuple[str, float], ...]:
    if not found or not found.content:
        return ()
    return tuple((other.token, other.logprob) for other in found.content[0].top_logprobs)


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        body["name"] = message.name
    return body
