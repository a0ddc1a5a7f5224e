"""POST /v1/chat/completions."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from msgspec.structs import replace

from preftune.serving.api.access import Caller, require
from preftune.serving.api.asking import Models, begin_ask, best_of, drawing_of
from preftune.serving.api.bodies import api_router
from preftune.serving.api.chat_answers import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    ReplyMessage,
    chat_logprobs,
    cost,
    head,
    usage,
)
from preftune.serving.api.chat_bodies import ChatBody
from preftune.serving.api.errors import ApiError
from preftune.serving.api.streams import EVENTS, EventStream, Placed, begun, whole
from preftune.serving.backend import Backend, Question
from preftune.wire.chat import Ask, Choice, Done, FinishReason, Piece

router = api_router()
STREAMED: dict[str, Any] = {"content": {EVENTS: {"schema": {"type": "string"}}}}
"""What a route that can stream adds to its 200 in the OpenAPI document."""


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: STREAMED},
    tags=["chat"],
)
async def chat(
    request: Request, body: ChatBody, caller: Annotated[Caller, Depends(require("chat:write"))]
) -> Response:
    """Answer a chat, whole or as a stream of events.

    Ours beside OpenAI's fields: `best_of` draws so many replies and gives the best `n` by
    `reward_model`, of those that have ended by `deadline_s`; `preftune` in the answer says what
    that took.
    """
    ask = await _ask(request, body, caller)
    backend: Backend = request.app.state.backend
    questions = [Question(name=body.model, ask=ask)]
    name = f"chatcmpl-{secrets.token_hex(16)}"
    if not body.stream:
        (found,) = await whole(request, backend, questions)
        answer = ChatCompletion(
            **head("chat.completion", name, body.model, found.begun.fingerprint),
            choices=[_choice(choice, has_logprobs=body.logprobs) for choice in found.choices],
            usage=usage([found.done]),
            **cost(ask, [found.done], found.choices),
        )
        return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")
    (start,), records = await begun(request, backend, questions)
    top = head("chat.completion.chunk", name, body.model, start.fingerprint)
    return EventStream(_chunks(top, body, ask, records))


async def _ask(request: Request, body: ChatBody, caller: Caller) -> Ask:
    """Return the whole question.

    Raises:
        ApiError: 400 or 404, what is wrong with it.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise _invalid("top_logprobs", "needs logprobs; set it to true")
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        raise _invalid("max_tokens", "is the old name of max_completion_tokens; give one of them")
    drawn = best_of(body, body.best_of, reward_model=body.reward_model)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    drawing = drawing_of(body, max_tokens=next(iter(given), None), logprobs=logprobs)
    messages = tuple(message.as_message() for message in body.messages)
    tools = () if body.tool_choice == "none" else body.tools
    models = Models.of(request, caller)
    ask = await begin_ask(models, body, drawing, best_of=drawn, reward_model=body.reward_model)
    return replace(
        ask,
        messages=messages,
        tools=tuple(tool.model_dump(exclude_unset=True) for tool in tools),
    )


def _choice(choice: Choice, *, has_logprobs: bool) -> ChatChoice:
    return ChatChoice(
        index=choice.index,
        message=ReplyMessage(role="assistant", content=choice.text, refusal=None),
        finish_reason=choice.finish,
        logprobs=chat_logprobs(choice.tokens) if has_logprobs else None,
    )


async def _chunks(
    top: dict[str, Any], body: ChatBody, ask: Ask, records: AsyncGenerator[Placed, None]
) -> AsyncGenerator[ChatChunk, None]:
    """Yield the events of one answer: roles, pieces, one end per reply, the usage if asked for."""
    has_usage = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if has_usage else {}
    for index in range(body.n):
        opened = _chunk_choice(index, Delta(role="assistant", content=""))
        yield ChatChunk(**top, choices=[opened], **more)
    ended: list[Choice] = []
    async with aclosing(records):
        async for _, record in records:
            if isinstance(record, Piece):
                said = chat_logprobs(record.tokens) if body.logprobs else None
                piece = _chunk_choice(record.index, Delta(content=record.text), logprobs=said)
                yield ChatChunk(**top, choices=[piece], **more)
            elif isinstance(record, Choice):
                ended.append(record)
                end = _chunk_choice(record.index, Delta(), finish=record.finish)
                yield ChatChunk(**top, choices=[end], **more)
            elif isinstance(record, Done) and has_usage:
                taken = cost(ask, [record], ended)
                yield ChatChunk(**top, choices=[], usage=usage([record]), **taken)


def _chunk_choice(
    index: int,
    delta: Delta,
    *,
    finish: FinishReason | None = None,
    logprobs: ChatLogprobs | None = None,
) -> ChunkChoice:
    return ChunkChoice(index=index, delta=delta, finish_reason=finish, logprobs=logprobs)


def _invalid(name: str, what: str) -> ApiError:
    return ApiError(400, f"Invalid '{name}': it {what}.", param=name, code="invalid_value")
