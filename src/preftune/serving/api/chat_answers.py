"""What clients are told: OpenAI's chat completions and chunks, and the parts completions share."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from preftune.wire.chat import Alternative, Ask, Choice, Done, FinishReason, Token

Role = Literal["assistant"]


class Usage(BaseModel):
    """What an answer took, in tokens, of the replies that were given."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Cost(BaseModel):
    """Ours: what was drawn so that the best could be given. `scores` are of the replies given."""

    best_of: int
    drawn: int
    finished: int
    scored: int
    drawn_tokens: int
    seconds: float
    scores: list[float | None]


class TopLogprob(BaseModel):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of a reply, and the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The log-probs of a reply, token by token, in nats."""

    content: list[TokenLogprob]
    refusal: None


class ReplyMessage(BaseModel):
    """A reply; tool calls stay in its text as the model wrote them."""

    role: Role
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One of the replies."""

    index: int
    message: ReplyMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None


class ChatCompletion(BaseModel):
    """The answer to a chat. `preftune` is there when more was drawn than given."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    preftune: Cost | None = None


class Delta(BaseModel):
    """What a chunk adds to a reply."""

    role: Role | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """What a chunk says of one reply."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: ChatLogprobs | None


class ChatChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    preftune: Cost | None = None


def usage(done: Sequence[Done]) -> Usage:
    """Return the usage of answers together."""
    prompt = sum(one.prompt_tokens for one in done)
    completion = sum(one.completion_tokens for one in done)
    return Usage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def cost(ask: Ask, done: Sequence[Done], choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the field `preftune` of an answer; without it when nothing was chosen from."""
    if not ask.best_of:
        return {}
    drawn = Cost(
        best_of=ask.best_of,
        drawn=sum(one.drawn for one in done),
        finished=sum(one.finished for one in done),
        scored=sum(one.scored for one in done),
        drawn_tokens=sum(one.drawn_tokens for one in done),
        seconds=max(one.seconds for one in done),
        scores=[choice.score for choice in choices],
    )
    return {"preftune": drawn}


def head(kind: str, name: str, model: str, fingerprint: str) -> dict[str, Any]:
    """Return the fields that an answer and all chunks of a stream begin with.

    Args:
        kind: of object.
        name: the id.
        model: as the client calls it.
        fingerprint: of the weights; with the same one a seed gives the same text.
    """
    return {
        "id": name,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


def chat_logprobs(tokens: Sequence[Token]) -> ChatLogprobs:
    """Return the log-probs of tokens of a reply, each of which has one."""
    content = [
        TokenLogprob(
            token=token_text(token),
            logprob=token.logprob or 0.0,
            bytes=list(token.raw),
            top_logprobs=[
                TopLogprob(token=token_text(other), logprob=other.logprob, bytes=list(other.raw))
                for other in token.top
            ],
        )
        for token in tokens
    ]
    return ChatLogprobs(content=content, refusal=None)


def token_text(token: Token | Alternative, *, before_bytes: str = "") -> str:
    r"""Return a token as text: its characters, or `\xe2\x82` where it ends within one.

    Args:
        token: its raw bytes count.
        before_bytes: what stands before bytes that are no text; completions have `bytes:` there.
    """
    try:
        return token.raw.decode()
    except UnicodeDecodeError:
        return before_bytes + "".join(f"\\x{byte:02x}" for byte in token.raw)
