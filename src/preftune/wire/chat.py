"""What the server and the generation process say to each other.

The process speaks HTTP over a Unix socket. `POST /generate` takes one `Ask`, about one prompt, and
answers with JSON lines, each an `Answer`: `Begun`, an `Echo` if one was asked for, `Piece`s if they
were, one `Choice` per reply, and `Done` last. What cannot be answered is one `Failed` in the body
of a response of its HTTP status; where the lines have begun, a `Failed` is the last of them.
Whoever hangs up frees the places of its replies at once. Many prompts are many requests: those that
come together are written together.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from preftune.types import Message

FinishReason = Literal["stop", "length"]
TOO_LONG = "context_length_exceeded"


class Drawing(Struct, frozen=True, kw_only=True):
    """How a reply is drawn. Ranges are the API's; the server has checked them.

    Attributes:
        max_tokens: most tokens of a reply; None: as many as the model has positions left; 0 draws
            nothing, for scoring a prompt.
        temperature: 0 takes the likeliest token each time.
        top_p: draw from the likeliest tokens that hold this mass.
        presence_penalty: taken from the logit of every token the reply holds already.
        frequency_penalty: the same, times how often it holds it.
        stop: texts that end a reply, which is cut before the first of them.
        seed: >= 0; reply 0 is that of the same request with n = 1.
        logprobs: how many alternatives are told of each token, 0 to 20; None: no log-probs.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: int | None = None


class Ask(Struct, frozen=True, kw_only=True):
    """POST /generate. Exactly one of `messages`, `text` and `ids` is the prompt.

    Attributes:
        model: folder of a model, or of an adapter; paths are absolute.
        base: folder of the adapter's base; "": the one that its config names.
        manifest_hash: SHA-256 of the folder's MANIFEST.json as it was published; "": not compared.
        messages: a chat, which the model's template turns into a prompt.
        tools: given to the template.
        text: a prompt as it is; control tokens in it stay text.
        ids: a prompt as token ids.
        drawing: how.
        n: replies given.
        best_of: replies drawn, of which the best `n` are given, the best first; 0: just `n`.
            Then pieces are told only of what was chosen, at the end.
        reward_model: folder that says which is best; "": the highest log-prob per token.
        deadline_s: seconds from the arrival after which the best of what has finished is given.
        echo: tell the prompt's tokens first, with log-probs if `drawing` asks for them.
        stream: tell pieces as they are written.
    """

    model: str
    base: str = ""
    manifest_hash: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str | None = None
    ids: tuple[int, ...] | None = None
    drawing: Drawing = Drawing()
    n: int = 1
    best_of: int = 0
    reward_model: str = ""
    deadline_s: float | None = None
    echo: bool = False
    stream: bool = False


class Alternative(Struct, frozen=True, kw_only=True):
    """A token that could have stood there. `raw` are its bytes, base64 in JSON."""

    text: str
    logprob: float
    raw: bytes


class Token(Struct, frozen=True, kw_only=True):
    """A token with its log-prob in nats at temperature 1; None for the first of a prompt.

    `top` holds the likeliest tokens there, the likeliest first.
    """

    id: int
    text: str
    logprob: float | None
    raw: bytes
    top: tuple[Alternative, ...] = ()


class Begun(Struct, frozen=True, kw_only=True, tag=True):
    """The first line: the request is being answered. `fingerprint` names the weights."""

    prompt_tokens: int
    fingerprint: str


class Echo(Struct, frozen=True, kw_only=True, tag=True):
    """The prompt. `tokens` is empty when no log-probs were asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


class Piece(Struct, frozen=True, kw_only=True, tag=True):
    """What has been added to reply `index`; its pieces joined are its text, to the character.

    The tokens are those written since the piece before; their texts may lie in a later piece, since
    characters are told whole, and nothing that could become a stop is told before it did not.
    """

    index: int
    text: str
    tokens: tuple[Token, ...] = ()


class Choice(Struct, frozen=True, kw_only=True, tag=True):
    """A whole reply.

    `tokens` is empty when no log-probs were asked for; it has one for each token of the text, the
    end token and those that only a stop lies in left out. `drawn` counts all. `score` is the reward
    model's, or the mean log-prob when best_of went by it.
    """

    index: int
    text: str
    finish: FinishReason
    drawn: int
    tokens: tuple[Token, ...] = ()
    score: float | None = None


class Done(Struct, frozen=True, kw_only=True, tag=True):
    """The last line: what the request cost.

    Attributes:
        prompt_tokens: of the prompt, once.
        completion_tokens: of the texts given; end tokens and what only a stop lies in left out.
        drawn_tokens: all that were drawn, those of replies not given or not finished included.
        drawn: replies begun.
        finished: replies that came to their end before the deadline.
        scored: replies that the reward model has scored.
        seconds: from the arrival to this line.
    """

    prompt_tokens: int
    completion_tokens: int
    drawn_tokens: int
    drawn: int
    finished: int
    scored: int = 0
    seconds: float


class Failed(Struct, frozen=True, kw_only=True, tag=True):
    """Why there is no answer, in the words of the API; `status` is of HTTP."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None


Answer = Begun | Echo | Piece | Choice | Done | Failed


class ScoreRow(Struct, frozen=True, kw_only=True):
    """A response and what it answers."""

    messages: tuple[Message, ...]
    response: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


class Score(Struct, frozen=True, kw_only=True):
    """POST /score: what a reward model says of responses. The answer is `Scored` or `Failed`."""

    reward_model: str
    rows: tuple[ScoreRow, ...]


class Scored(Struct, frozen=True, kw_only=True, tag=True):
    """One score per row, in the order given."""

    scores: tuple[float, ...]


class Unload(Struct, frozen=True, kw_only=True):
    """POST /unload: forget what was loaded from these folders. The answer is `Health`."""

    folders: tuple[str, ...]


class Health(Struct, frozen=True, kw_only=True):
    """GET /health.

    Attributes:
        writing: replies that are being written now.
        waiting: requests that wait for a place.
        written_tokens: since the start.
        models: folders of bases in memory.
        adapters: folders of adapters in memory.
        reward_models: folders of reward models in memory.
        weight_bytes: of all weights in memory.
        seconds: since the start.
    """

    writing: int
    waiting: int
    written_tokens: int
    models: tuple[str, ...]
    adapters: tuple[str, ...]
    reward_models: tuple[str, ...]
    weight_bytes: int
    seconds: float


def encode_line(answer: Answer) -> bytes:
    """Return a record as one line of JSON, its newline included."""
    return msgspec.json.encode(answer) + b"\n"


def read_line(line: bytes) -> Answer:
    """Return the record of a line.

    Raises:
        msgspec.MsgspecError: not one of the records.
    """
    return _ANSWERS.decode(line)


_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
