"""POST /v1/completions: text that goes on from a prompt, and the score of a text that is given."""

import codecs
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Response
from msgspec.structs import replace
from pydantic import BaseModel

from preftune.serving.api.access import Caller, require
from preftune.serving.api.asking import Models, begin_ask, best_of, drawing_of
from preftune.serving.api.bodies import api_router
from preftune.serving.api.chat import STREAMED
from preftune.serving.api.chat_answers import Cost, Usage, cost, head, token_text, usage
from preftune.serving.api.chat_bodies import CompletionBody
from preftune.serving.api.errors import ApiError
from preftune.serving.api.streams import EventStream, Placed, Whole, begun, whole
from preftune.serving.backend import Backend, Question
from preftune.wire.chat import Choice, Done, Echo, FinishReason, Piece, Token

router = api_router()
BYTES = "bytes:"  # before a token that ends within a character


class CompletionLogprobs(BaseModel):
    """The log-probs of a text, token by token, in nats; the first of a prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the replies, or a piece of one."""

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: CompletionLogprobs | None


class Completion(BaseModel):
    """The answer to a prompt, or one event of it. `preftune`: when more was drawn than given."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    preftune: Cost | None = None


class Offsets:
    """Counts the characters before each token of a text, piece by piece."""

    def __init__(self) -> None:
        self._read, self._length = codecs.getincrementaldecoder("utf-8")("replace"), 0

    def of(self, tokens: Sequence[Token]) -> list[int]:
        """Return where the next tokens start; one within a character starts where that does."""
        starts = []
        for token in tokens:
            starts.append(self._length)
            self._length += len(self._read.decode(token.raw))
        return starts


@router.post(
    "/v1/completions", response_model=Completion, responses={200: STREAMED}, tags=["completions"]
)
async def complete(
    request: Request,
    body: CompletionBody,
    caller: Annotated[Caller, Depends(require("chat:write"))],
) -> Response:
    """Go on from a prompt, or from several, whole or as a stream of events.

    With `echo`, `logprobs` and `max_tokens` 0 nothing is written: the answer holds the log-prob of
    each token of the prompt.
    """
    backend: Backend = request.app.state.backend
    questions = await _questions(request, body, caller)
    _check_replies(questions, most=backend.settings.most_replies)
    name = f"cmpl-{secrets.token_hex(16)}"
    if not body.stream:
        found = await whole(request, backend, questions)
        done = [one.done for one in found]
        drawn = [choice for one in found for choice in one.choices]
        answer = Completion(
            **head("text_completion", name, body.model, found[0].begun.fingerprint),
            choices=[
                one for place, each in enumerate(found) for one in _choices(body, place, each)
            ],
            usage=usage(done),
            **cost(questions[0].ask, done, drawn),
        )
        return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")
    starts, records = await begun(request, backend, questions)
    top = head("text_completion", name, body.model, starts[0].fingerprint)
    return EventStream(_events(top, body, questions, records))


async def _questions(request: Request, body: CompletionBody, caller: Caller) -> list[Question]:
    """Return one question per prompt.

    Raises:
        ApiError: 400 or 404, what is wrong with the request.
    """
    drawn = best_of(body, body.best_of)
    drawing = drawing_of(body, max_tokens=body.max_tokens, logprobs=body.logprobs)
    ask = await begin_ask(Models.of(request, caller), body, drawing, best_of=drawn)
    ask = replace(ask, echo=body.echo)
    asks = [
        replace(ask, text=prompt) if isinstance(prompt, str) else replace(ask, ids=tuple(prompt))
        for prompt in body.prompt
    ]
    return [Question(name=body.model, ask=one) for one in asks]


def _check_replies(questions: Sequence[Question], *, most: int) -> None:
    """Refuse several prompts with more replies than may ever be under way: waiting would not help.

    Raises:
        ApiError: 400.
    """
    replies = sum(question.replies for question in questions)
    if len(questions) > 1 and replies > most:
        raise ApiError(
            400,
            f"Invalid 'prompt': {len(questions)} prompts with {questions[0].replies} replies each "
            f"are {replies}, and this server writes {most} at once. Send fewer prompts at once.",
            param="prompt",
            code="invalid_value",
        )


def _choices(body: CompletionBody, place: int, found: Whole) -> list[CompletionChoice]:
    """Return the replies to one prompt, each behind the prompt if that was asked for."""
    echo = found.echo or Echo(text="")
    return [
        CompletionChoice(
            index=place * body.n + choice.index,
            text=echo.text + choice.text,
            finish_reason=choice.finish,
            logprobs=_logprobs(body, (*echo.tokens, *choice.tokens), Offsets()),
        )
        for choice in found.choices
    ]


def _logprobs(
    body: CompletionBody, tokens: Sequence[Token], offsets: Offsets
) -> CompletionLogprobs | None:
    if body.logprobs is None:
        return None
    top = [
        {token_text(other, before_bytes=BYTES): other.logprob for other in token.top} or None
        for token in tokens
    ]
    return CompletionLogprobs(
        tokens=[token_text(token, before_bytes=BYTES) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=top if body.logprobs else None,
        text_offset=offsets.of(tokens),
    )


async def _events(
    top: dict[str, Any],
    body: CompletionBody,
    questions: Sequence[Question],
    records: AsyncGenerator[Placed, None],
) -> AsyncGenerator[Completion, None]:
    """Yield the events of all answers: prompts if asked for, pieces, one end per reply."""
    has_usage = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if has_usage else {}
    offsets = [Offsets() for _ in range(body.n * len(questions))]
    ended: list[Choice] = []
    done: list[Done] = []
    async with aclosing(records):
        async for place, record in records:
            for one in _pieces(body, place, record, offsets):
                yield Completion(**top, choices=[one], **more)
            if isinstance(record, Choice):
                ended.append(record)
            if isinstance(record, Done):
                done.append(record)
    if has_usage:
        taken = cost(questions[0].ask, done, ended)
        yield Completion(**top, choices=[], usage=usage(done), **taken)


def _pieces(
    body: CompletionBody, place: int, record: object, offsets: Sequence[Offsets]
) -> list[CompletionChoice]:
    """Return what a record adds to the replies of prompt number `place`."""
    first = place * body.n

    def piece(index: int, text: str, tokens: Sequence[Token]) -> CompletionChoice:
        logprobs = _logprobs(body, tokens, offsets[index])
        return CompletionChoice(index=index, text=text, finish_reason=None, logprobs=logprobs)

    if isinstance(record, Echo):
        return [piece(first + n, record.text, record.tokens) for n in range(body.n)]
    if isinstance(record, Piece):
        return [piece(first + record.index, record.text, record.tokens)]
    if isinstance(record, Choice):
        ended = CompletionChoice(
            index=first + record.index, text="", finish_reason=record.finish, logprobs=None
        )
        return [ended]
    return []
