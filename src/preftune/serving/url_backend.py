"""Who answers prompts when the server was started with `--inference-url`: vLLM, or the like.

Models are asked there by the names they have here: whoever runs that server loads them under these
names, adapters of tuned models too. Its words are a stranger's: bounded, and read strictly.
"""

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from dataclasses import field as data_field
from typing import Any

import httpx2
import msgspec
from msgspec import Struct, field

from preftune.responses.chat_client import ChatRequest
from preftune.responses.chat_wire import Dialect, encode_request, refusal_text
from preftune.responses.secret import read_secret
from preftune.responses.url_guard import Resolve, guard, system_resolve
from preftune.serving.api.errors import ApiError
from preftune.serving.backend import AWAY_S, BUSY_S, BackendSettings, Places, Question, lines_of
from preftune.settings import checked
from preftune.wire.chat import (
    Alternative,
    Answer,
    Ask,
    Begun,
    Choice,
    Done,
    FinishReason,
    Health,
    Piece,
    Score,
    Token,
)

KEY_ENV = "PREFTUNE_INFERENCE_KEY"
"""Name of the environment variable with the inference server's key; unset: none is sent."""
OK = 200
MOST_BYTES = 64 * 2**20  # of one answer
REFUSED = (400, 404, 413, 422)
BUSY = 429
NO_ID = -1  # tokens are told by their text alone
LAST = b"[DONE]"


class UrlBackend:
    """An OpenAI-compatible server; every answer is streamed from there, however it is given."""

    def __init__(
        self, url: str, settings: BackendSettings, *, resolve: Resolve = system_resolve
    ) -> None:
        """Take the server; nothing is sent.

        Args:
            url: such as http://127.0.0.1:8001/v1. Whoever starts the server names it, so it may be
                http, and no public address.
            settings: `most_replies` and `generation_silence_s`; the rest is of our own process.
            resolve: addresses of a host; called once.

        Raises:
            SettingsError: no URL that can be asked, or a key that is none.
        """
        self.settings = checked(settings)
        self.endpoint = guard(url, allow=(url,), resolve=resolve)
        self._secret = read_secret(KEY_ENV if os.environ.get(KEY_ENV) else "", None)
        self._verify = self.endpoint.scheme == "https" and httpx2.create_ssl_context()
        self._places = Places(settings.most_replies)

    async def answers(self, question: Question) -> AsyncGenerator[Answer, None]:
        """Yield the records of an answer.

        Raises:
            ApiError: the server refuses, is away, or says what is no answer.
        """
        if question.ask.best_of:
            raise _only_ours("best_of")
        with self._places.take(question.replies):
            answer = _Reading(question.ask)
            async with self._asked(question) as reply, aclosing(_events(reply)) as events:
                async for event in events:
                    if event == LAST:
                        break
                    for record in answer.read(event):
                        yield record
            yield answer.done()

    async def scores(self, _question: Score, /) -> tuple[float, ...]:
        """Refuse: reward models are asked in this server's own process alone.

        Raises:
            ApiError: 400, always.
        """
        raise _only_ours("reward_model")

    async def health(self) -> Health | None:
        """Return None: it is no process of this server."""
        return None

    def close(self) -> None:
        """Do nothing: nothing was started."""

    @asynccontextmanager
    async def _asked(self, question: Question) -> AsyncIterator[httpx2.Response]:
        """Post a question and yield the answer, refusals raised."""
        path, body = _request(question)
        end = self.endpoint
        key = {"Authorization": f"Bearer {self._secret.reveal()}"} if self._secret else {}
        try:
            async with (
                httpx2.AsyncClient(
                    verify=self._verify,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=self.settings.generation_silence_s,
                ) as http,
                http.stream(
                    "POST",
                    end.pinned(f"{end.path or '/v1'}{path}", 0),
                    content=msgspec.json.encode(body),
                    headers={
                        "Host": end.netloc,
                        "Content-Type": "application/json",
                        "Accept-Encoding": "identity",
                        **key,
                    },
                    extensions={"sni_hostname": end.host},
                ) as reply,
            ):
                if reply.status_code != OK:
                    raise await self._refusal(reply, question.name)
                yield reply
        except httpx2.TransportError as error:
            raise _away("does not answer") from error

    async def _refusal(self, reply: httpx2.Response, name: str) -> ApiError:
        status = reply.status_code
        body = await _bounded(reply)
        said = refusal_text(self._secret.hide_in(body) if self._secret else body)
        if status == 404:
            return ApiError(
                404,
                f"The inference server has no model '{name}'. Whoever runs it loads it there under "
                "this name.",
                param="model",
                code="model_not_found",
            )
        if status in REFUSED:
            return ApiError(400, f"The inference server refuses: {said}. Change the request.")
        if status == BUSY:
            return ApiError(429, "The inference server is busy. Try again.", retry_after_s=BUSY_S)
        return _away(f"answers with status {status}")


@dataclass(kw_only=True, slots=True)
class _Reply:
    """One reply as far as it is known."""

    text: str = ""
    tokens: list[Token] = data_field(default_factory=list)


class _Reading:
    """Turns the chunks of a stream into records."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._began_s = ask, time.monotonic()
        self._replies: dict[int, _Reply] = {}
        self._ended: set[int] = set()
        self._usage: _Usage | None = None
        self._has_begun = False

    def read(self, event: bytes) -> Iterator[Answer]:
        """Yield what a chunk says.

        Raises:
            ApiError: it is no chunk, or an error.
        """
        try:
            chunk = _CHUNKS.decode(event)
        except msgspec.MsgspecError as error:
            raise _away("says what is no answer") from error
        if chunk.error is not None:
            raise _away("broke off")
        self._usage = chunk.usage or self._usage
        if not self._has_begun:
            self._has_begun = True
            yield Begun(prompt_tokens=0, fingerprint=chunk.system_fingerprint or "")
        for choice in chunk.choices:
            yield from self._add(choice)

    def done(self) -> Done:
        """Return the last record.

        Raises:
            ApiError: not all replies have come to their end.
        """
        if len(self._ended) < self._ask.n:
            raise _away("broke off")
        taken = self._usage or _Usage()
        return Done(
            prompt_tokens=taken.prompt_tokens,
            completion_tokens=taken.completion_tokens,
            drawn_tokens=taken.completion_tokens,
            drawn=self._ask.n,
            finished=self._ask.n,
            seconds=time.monotonic() - self._began_s,
        )

    def _add(self, choice: "_Choice") -> Iterator[Answer]:
        if not 0 <= choice.index < self._ask.n or choice.index in self._ended:
            raise _away("says what is no answer")
        reply = self._replies.setdefault(choice.index, _Reply())
        text = (choice.delta.content if choice.delta else choice.text) or ""
        tokens = tuple(choice.logprobs.read()) if choice.logprobs else ()
        reply.text += text
        reply.tokens += tokens
        if text or tokens:
            yield Piece(index=choice.index, text=text, tokens=tokens)
        if choice.finish_reason is not None:
            self._ended.add(choice.index)
            finish: FinishReason = "length" if choice.finish_reason == "length" else "stop"
            yield Choice(
                index=choice.index,
                text=reply.text,
                finish=finish,
                drawn=len(reply.tokens),
                tokens=tuple(reply.tokens),
            )


class _Delta(Struct):
    content: str | None = None


class _Top(Struct):
    token: str
    logprob: float
    spelt: list[int] | None = field(name="bytes", default=None)

    def alternative(self) -> Alternative:
        """Return it as a record."""
        raw = self.token.encode() if self.spelt is None else bytes(self.spelt)
        return Alternative(text=self.token, logprob=self.logprob, raw=raw)


class _Position(_Top):
    top_logprobs: list[_Top] = field(default_factory=list)


class _Logprobs(Struct):
    """Of a chat (`content`), or of a completion (the others)."""

    content: list[_Position] | None = None
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] | None = None

    def read(self) -> Iterator[Token]:
        """Yield the tokens of either form."""
        for one in self.content or ():
            top = tuple(other.alternative() for other in one.top_logprobs)
            raw = one.alternative().raw
            yield Token(id=NO_ID, text=one.token, logprob=one.logprob, raw=raw, top=top)
        tops = self.top_logprobs or [None] * len(self.tokens)
        for text, logprob, others in zip(self.tokens, self.token_logprobs, tops, strict=False):
            top = tuple(
                Alternative(text=other, logprob=value, raw=other.encode())
                for other, value in (others or {}).items()
            )
            yield Token(id=NO_ID, text=text, logprob=logprob, raw=text.encode(), top=top)


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(Struct):
    choices: list[_Choice] = field(default_factory=list)
    usage: _Usage | None = None
    system_fingerprint: str | None = None
    error: Any = None


_CHUNKS = msgspec.json.Decoder(_Chunk)


def _request(question: Question) -> tuple[str, dict[str, Any]]:
    """Return the path and the body that ask a question."""
    ask, how = question.ask, question.ask.drawing
    body: dict[str, Any] = {
        "model": question.name,
        "max_tokens": how.max_tokens,
        "temperature": how.temperature,
        "top_p": how.top_p,
        "presence_penalty": how.presence_penalty,
        "frequency_penalty": how.frequency_penalty,
        "stop": how.stop or None,
        "seed": how.seed,
        "n": ask.n,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ask.messages:
        path = "/chat/completions"
        body |= {"messages": _messages(ask), "tools": ask.tools or None}
        body |= {"tool_choice": "none"} if ask.tools else {}  # calls stay in the text, as with ours
        body |= {} if how.logprobs is None else {"logprobs": True, "top_logprobs": how.logprobs}
    else:
        path = "/completions"
        body |= {"prompt": ask.text if ask.ids is None else ask.ids, "echo": ask.echo}
        body |= {"logprobs": how.logprobs}
    return path, {name: value for name, value in body.items() if value is not None}


def _messages(ask: Ask) -> Any:
    """Return the messages as OpenAI's API has them."""
    as_request = ChatRequest(key="", messages=ask.messages, max_tokens=1)
    return msgspec.json.decode(encode_request(as_request, "", Dialect()))["messages"]


async def _events(reply: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield what the events of a stream hold, as they come."""
    async for line in lines_of(reply, most_bytes=MOST_BYTES):
        if line.startswith(b"data:"):
            yield line.removeprefix(b"data:").strip()


async def _bounded(reply: httpx2.Response) -> bytes:
    """Return the beginning of a body."""
    body = b""
    async for piece in reply.aiter_bytes():
        body += piece
        if len(body) > MOST_BYTES:
            break
    return body[:MOST_BYTES]


def _away(what: str) -> ApiError:
    return ApiError(
        503,
        f"The inference server {what}. Try again, or ask whoever runs it.",
        code="backend_unavailable",
        retry_after_s=AWAY_S,
    )


def _only_ours(name: str) -> ApiError:
    return ApiError(
        400,
        f"Invalid '{name}': this server answers through another one, which cannot do this. Leave "
        "it out, or start the server without --inference-url.",
        param=name,
        code="invalid_value",
    )
