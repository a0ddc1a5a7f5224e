"""A chat model behind a URL as a `Generator`: what was paid for once is never asked again."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preftune.errors import DataError, ModelError, RowError, SettingsError
from preftune.records import decode, encode
from preftune.responses.chat_client import ChatAnswer, ChatClient, ChatFailure, ChatRequest
from preftune.responses.generator import GenerateSettings, Request
from preftune.responses.journal import Journal
from preftune.types import Message, Prompt, Response, Sampling

REASONS = 3  # different ones that an error names


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A response that could not be had."""

    response_id: str
    prompt_id: str
    generator: str
    reason: str


class MissingResponsesError(ModelError):
    """Some responses could not be had; names the commonest reasons, each with one prompt."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        counted = Counter((f.generator, f.reason) for f in failures).most_common()
        one = {(f.generator, f.reason): f.prompt_id for f in failures}
        named = "; ".join(
            f"{n} from {key[0]}: {key[1]} (prompt {one[key]})" for key, n in counted[:REASONS]
        )
        more = f"; and {len(counted) - REASONS} other reasons" if len(counted) > REASONS else ""
        super().__init__(
            f"{len(failures)} responses could not be had. {named}{more}. "
            "The others are kept; the same command asks only for these."
        )

    def __reduce__(self) -> tuple[type["MissingResponsesError"], tuple[tuple[Failure, ...]]]:
        """Keep the error picklable, so that it survives a worker process."""
        return type(self), (self.failures,)


class Answers:
    """Responses on disk by their id, each there before the next is taken."""

    def __init__(self, journal: Journal) -> None:
        """Take the journal to read and write.

        Raises:
            RowError: a line that is no response.
        """
        self._journal = journal
        self._by_id: dict[str, Response] = {}
        for row, line in enumerate(journal.found, start=1):
            response = _response(journal.path, row, line)
            self._by_id[response.id] = response

    def besides(self, wanted: Collection[str]) -> int:
        """Return how many responses there are besides those of these ids."""
        return len(self._by_id.keys() - set(wanted))

    def __contains__(self, response_id: str) -> bool:
        return response_id in self._by_id

    def __getitem__(self, response_id: str) -> Response:
        return self._by_id[response_id]

    def add(self, response: Response) -> None:
        """Keep a response; it is on disk when this returns."""
        self._journal.add(encode(response))
        self._by_id[response.id] = response


class OpenAIGenerator:
    """Answers with a model behind a URL; gives what is on disk from there."""

    def __init__(self, client: ChatClient, settings: GenerateSettings, answers: Answers) -> None:
        """Take who asks, how to draw, and where answers are kept.

        Raises:
            SettingsError: `top_k`, which chat APIs do not have, or `stop`, which is not asked for.
        """
        if settings.top_k:
            raise SettingsError(f"top_k {settings.top_k}: chat APIs have none. Leave it out.")
        if settings.stop:
            raise SettingsError(f"stop {settings.stop!r}: not asked of a server. Leave it out.")
        self._client, self._settings, self._answers = client, settings, answers

    @property
    def name(self) -> str:
        """Return `model@host`."""
        return self._client.name

    def sampling(self, seed: int) -> Sampling:
        """Return how a response is drawn from `seed`."""
        return self._settings.sampling(seed)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ModelError`, naming the prompt, if one has no turn to answer."""
        for prompt in prompts:
            if not prompt.messages or prompt.messages[-1].role == "assistant":
                raise ModelError(
                    f"prompt {prompt.id}: no user turn at its end to answer. Leave it out."
                )

    def missing(self, requests: Sequence[Request]) -> list[ChatRequest]:
        """Return what must be asked, for it is not on disk."""
        return [self._asked(q) for q in requests if not self._has(q)]

    def gather(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Yield the responses as they come, those on disk first; each is on disk when yielded.

        Raises:
            MissingResponsesError: at the end, if some could not be had.
        """
        yield from (self._answers[q.response_id] for q in requests if self._has(q))
        wanted = {request.response_id: request for request in requests}
        failures = []
        for outcome in self._client.ask(self.missing(requests)):
            if isinstance(outcome, ChatFailure):
                failures.append(self._failure(wanted[outcome.key], outcome.reason))
            else:
                response = self._response(wanted[outcome.key], outcome)
                self._answers.add(response)
                yield response
        if failures:
            raise MissingResponsesError(failures)

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        """Return one response per request, in the same order.

        Raises:
            MissingResponsesError: some could not be had; the others are on disk.
        """
        for _ in self.gather(requests):
            pass
        return [self._answers[request.response_id] for request in requests]

    def _has(self, request: Request) -> bool:
        return request.response_id in self._answers

    def _asked(self, request: Request) -> ChatRequest:
        s = self._settings
        return ChatRequest(
            key=request.response_id,
            messages=request.prompt.messages,
            tools=request.prompt.tools,
            max_tokens=s.max_new_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            seed=request.seed,
        )

    def _failure(self, request: Request, reason: str) -> Failure:
        return Failure(
            response_id=request.response_id,
            prompt_id=request.prompt.id,
            generator=self.name,
            reason=reason,
        )

    def _response(self, request: Request, answer: ChatAnswer) -> Response:
        said = Message(role="assistant", content=answer.text, tool_calls=answer.tool_calls)
        return Response(
            id=request.response_id,
            prompt_id=request.prompt.id,
            messages=(said,),
            generator=self.name,
            sampling=self.sampling(request.seed),
            origin="sampled",
            finished=answer.finished,
        )


def _response(path: Path, row: int, line: bytes) -> Response:
    fix = "Delete the line; its response is asked for again"
    try:
        record = decode(line)
    except DataError as error:
        raise RowError(path, row, f"damaged row: {error}", fix) from error
    if not isinstance(record, Response):
        raise RowError(path, row, "not a response", fix)
    return record
