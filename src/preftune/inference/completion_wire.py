"""The OpenAI-compatible completion in token ids: its request, and its answer, checked."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from preftune.errors import DataError
from preftune.responses.chat_wire import shown
from preftune.responses.generator import GenerateSettings

ID_MARK = "token_id:"  # before an id that stands where a token's text would
ABOVE_ZERO = 1e-3  # nats that rounding on the server may put a log-prob above 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One completion as tokens; `model` is the name that the server says has drawn it."""

    model: str
    ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...]


# A server takes what is not said from the model's own generation settings.
PLAIN = {
    "top_k": -1,  # all
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def completion_request(
    model: str, prompt: Sequence[int], s: GenerateSettings, *, seed: int, end_ids: Sequence[int]
) -> dict[str, Any]:
    """Return the body that asks for one completion of a prompt of token ids, drawn from a seed."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "n": 1,
        "max_tokens": s.max_new_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "seed": seed,
        "logprobs": 0,  # of the tokens drawn, and of no others
        "stop_token_ids": list(end_ids),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,  # for servers that do not know the line above
    }
    return body | PLAIN | ({"top_k": s.top_k} if s.top_k else {})


def read_completion(
    body: bytes,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    vocab_size: int,
) -> Completion:
    """Return the completion in an answer, which must be whole and agree with itself.

    Args:
        body: the answer.
        prompt: what was asked; where the server repeats it, it must be the same.
        max_new_tokens: most tokens asked for.
        end_ids: tokens that end a completion; none may stand elsewhere in it.
        vocab_size: ids are below it.

    Raises:
        DataError: it is not, or log-probs are missing, not finite or above 0.
    """
    try:
        found = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not a completion: {shown(str(error))}") from None
    choice = found.choices[0]
    ids = _ids(choice)
    logprobs = choice.logprobs.token_logprobs if choice.logprobs else []
    finished = choice.finish_reason == "stop"
    known = [value for value in logprobs if value is not None]
    wrong = (
        (not ids, "no tokens"),
        (len(ids) > max_new_tokens, f"{len(ids)} tokens where {max_new_tokens} were asked for"),
        (not all(0 <= token < vocab_size for token in ids), "an id outside the vocabulary"),
        (len(known) != len(ids), f"{len(known)} log-probs for {len(ids)} tokens"),
        (not all(map(_likely, known)), "a log-prob that is not a number, or above 0"),
        (choice.finish_reason not in ("stop", "length"), "neither finished nor cut at the limit"),
        (
            finished != any(token in end_ids for token in ids[-1:]),
            "its end token and its reason differ",
        ),
        (any(token in end_ids for token in ids[:-1]), "an end token before the end"),
        (choice.prompt_token_ids not in (None, list(prompt)), "another prompt than was asked"),
    )
    if what := next((what for bad, what in wrong if bad), ""):
        raise DataError(f"not a completion in token ids: {what}")
    return Completion(
        model=shown(found.model), ids=tuple(ids), finished=finished, logprobs=tuple(known)
    )


class _Logprobs(Struct):
    token_logprobs: list[float | None]
    tokens: list[str] = field(default_factory=list)


class _Choice(Struct):
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Completion(Struct):
    model: str
    choices: Annotated[list[_Choice], Meta(min_length=1, max_length=1)]


_DECODER = msgspec.json.Decoder(_Completion)


def _likely(value: float) -> bool:
    return math.isfinite(value) and value <= ABOVE_ZERO


def _ids(choice: _Choice) -> list[int]:
    """Return the ids, said in one way or in two that agree."""
    named = _named(choice.logprobs.tokens if choice.logprobs else [])
    if choice.token_ids is None:
        if named is None:
            raise DataError("not a completion in token ids: text, where ids were asked for")
        return named
    if named is not None and named != choice.token_ids:
        raise DataError("not a completion in token ids: two lists of ids that differ")
    return choice.token_ids


def _named(tokens: Sequence[str]) -> list[int] | None:
    """Return the ids in names such as `token_id:17`; None where the names are text."""
    numbers = [token.removeprefix(ID_MARK) for token in tokens if token.startswith(ID_MARK)]
    whole = bool(tokens) and len(numbers) == len(tokens)
    return [int(n) for n in numbers] if whole and all(map(_is_id, numbers)) else None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
