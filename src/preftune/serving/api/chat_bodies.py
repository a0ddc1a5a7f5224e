"""What clients may send to chat and completions, field by field.

A field that OpenAI's API has and this server cannot honour is refused by name, with the reason: a
request is answered as it was meant, or not at all. Fields that only label a request are taken.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from preftune.serving.api.bodies import Body
from preftune.types import Message, Role, ToolCall

MOST_REPLIES = 128
MOST_STOPS = 4
MOST_ID = 2**31
TEXTS = ("text", "refusal")  # types of parts, each with a field of its name
LONGEST_DEADLINE_S = 3600.0
SEEDS = 2**63  # of the generation process; a client may send a negative number

UNSUPPORTED = {
    "audio": "models here write text alone. Leave it out",
    "function_call": "is the old form. Give tools",
    "functions": "is the old form. Give tools",
    "logit_bias": "is not applied here. Leave it out",
    "moderation": "there is none here. Leave it out",
    "prediction": "nothing is predicted here. Leave it out",
    "suffix": "text is written at the end alone. Leave it out",
    "web_search_options": "nothing is searched here. Leave it out",
}
"""Fields of OpenAI's API that ask for what this server cannot do, and what to do instead."""


def joined_text(value: Any) -> Any:
    """Return text parts as one text; refuse a part that is no text."""
    if not isinstance(value, list):
        return value
    parts = [part if isinstance(part, dict) else {} for part in value]
    texts = [part.get(part["type"]) if part.get("type") in TEXTS else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise PydanticCustomError(
            "not_text", "A part is no text, and models here read text alone. Give text parts"
        )
    return "".join(text for text in texts if text)


def prompt_list(value: Any) -> Any:
    """Return a prompt, or several, as a list of texts and lists of token ids."""
    is_ids = isinstance(value, list) and all(type(one) is int for one in value)
    prompts = [value] if is_ids or not isinstance(value, list) else value
    if not 0 < len(prompts) <= MOST_REPLIES or not all(map(_is_prompt, prompts)):
        raise PydanticCustomError(
            "not_a_prompt",
            "Input should be a text, a list of token ids, or a list of up to {most} of one of them",
            {"most": MOST_REPLIES},
        )
    return prompts


def _is_prompt(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    return bool(value) and all(type(one) is int and 0 <= one < MOST_ID for one in value)


def text_list(value: Any) -> Any:
    """Return a lone text as a list of it."""
    return [value] if isinstance(value, str) else value


_STRING = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    str,
    BeforeValidator(joined_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]}),
]
"""Text, or a list of text parts, joined."""

Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(max_length=MOST_STOPS),
    BeforeValidator(text_list),
    WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING, "maxItems": 4}]}),
]
"""One text, or up to four."""


class Function(Body):
    """A call that the assistant made; `arguments` is the JSON text that it wrote."""

    name: str
    arguments: str


class Call(Body):
    """One tool call of an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Body):
    """One turn. `developer` is the same as `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[Call] = Field([])
    tool_call_id: str | None = None
    refusal: str | None = Field(None, description="In the place of content.")
    annotations: list[Any] = Field([], max_length=0, description="Taken when empty.")

    @model_validator(mode="after")
    def has_what_its_role_needs(self) -> Self:
        """Refuse a turn that says nothing, or what its role cannot say."""
        said = self.content if self.refusal is None else self.refusal
        wrong = (
            (said is None and not self.tool_calls, "It has no content. Give text"),
            (self.role != "assistant" and self.tool_calls, "Only an assistant calls tools"),
            (self.role != "assistant" and self.refusal, "Only an assistant refuses"),
            (self.role == "tool" and self.tool_call_id is None, "It answers no tool_call_id"),
        )
        for is_wrong, what in wrong:
            if is_wrong:
                raise PydanticCustomError("message", what)
        return self

    def as_message(self) -> Message:
        """Return the turn as models read it."""
        role: Role = "system" if self.role == "developer" else self.role
        calls = tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in self.tool_calls
        )
        return Message(
            role=role,
            content=self.content or self.refusal or "",
            tool_calls=calls,
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


class ToolFunction(Body):
    """What a tool is called and takes; it goes to the model's template as it is."""

    name: str = Field(min_length=1, max_length=64)
    description: str = ""
    parameters: dict[str, Any] = Field({})
    strict: bool = False


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: ToolFunction


class StreamOptions(Body):
    """What a stream tells."""

    include_usage: bool = Field(False, description="One more chunk at the end, with the usage.")
    include_obfuscation: Literal[False] = False


class TextFormat(Body):
    """The one format there is: text."""

    type: Literal["text"]


class Drawn(Body):
    """What chat and completions share: which model writes, and how."""

    model: str = Field(min_length=1, description="A base model, an ft: model or a checkpoint.")
    temperature: float = Field(1.0, ge=0, le=2, description="0: the likeliest token each time.")
    top_p: float = Field(1.0, ge=0, le=1, description="Draw from the likeliest with this mass.")
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Taken from the logit of each token the reply holds."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="The same, times how often it holds it."
    )
    n: int = Field(1, ge=1, le=MOST_REPLIES, description="Replies to give.")
    stop: Stops = Field([], description="Up to 4 texts; a reply is cut before the first of them.")
    seed: int | None = Field(
        None, ge=-SEEDS, lt=SEEDS, description="The same seed gives the same text."
    )
    stream: bool = Field(False, description="Answer in events, as the text is written.")
    stream_options: StreamOptions | None = None
    deadline_s: float | None = Field(
        None, gt=0, le=LONGEST_DEADLINE_S, description="Ours: give the best of what has ended then."
    )
    logit_bias: Any = Field(None, description="Refused unless empty.")
    user: str | None = Field(None, description="Taken; changes nothing.")

    @field_validator(*UNSUPPORTED, mode="before", check_fields=False)
    @classmethod
    def not_here(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what would be left out in silence."""
        if value not in (None, {}, [], ""):
            name = info.field_name or ""
            raise PydanticCustomError("unsupported", UNSUPPORTED[name])
        return value


class ChatBody(Drawn):
    """Body of POST /chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens of a reply; else as many as the model has room for."
    )
    max_tokens: int | None = Field(None, ge=1, description="The old name of the same.")
    logprobs: bool = Field(False, description="Tell the log-prob of each token, in nats.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Needs logprobs.")
    best_of: int | None = Field(
        None, ge=1, le=MOST_REPLIES, description="Ours: draw so many and give the best n."
    )
    reward_model: str | None = Field(
        None, min_length=1, description="Ours: which reward model says what is best of best_of."
    )
    tools: list[Tool] = Field([], max_length=128, description="Put into the model's template.")
    tool_choice: Literal["none", "auto"] | None = Field(
        None, description="none: the tools are not told. No call can be forced."
    )
    parallel_tool_calls: Literal[True] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    audio: Any = Field(None, description="Refused.")
    function_call: Any = Field(None, description="Refused.")
    functions: Any = Field(None, description="Refused.")
    moderation: Any = Field(None, description="Refused.")
    prediction: Any = Field(None, description="Refused.")
    web_search_options: Any = Field(None, description="Refused.")
    metadata: dict[str, str] | None = Field(None, description="Taken; changes nothing.")
    safety_identifier: str | None = Field(None, description="Taken; changes nothing.")
    prompt_cache_key: str | None = Field(None, description="Taken; changes nothing.")
    prompt_cache_retention: str | None = Field(None, description="Taken; changes nothing.")
    prompt_cache_options: dict[str, Any] | None = Field(None, description="Taken; changes nothing.")


Prompts = Annotated[
    list[str | list[int]],
    BeforeValidator(prompt_list),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                _IDS,
                {"type": "array", "items": {"anyOf": [{"type": "string"}, _IDS]}, "minItems": 1},
            ]
        }
    ),
]
"""Texts and lists of token ids."""


class CompletionBody(Drawn):
    """Body of POST /completions."""

    prompt: Prompts = Field(description="A text, its token ids, or a list of these.")
    max_tokens: int = Field(16, ge=0, description="0 with echo and logprobs scores the prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Tell the log-prob of each token, and of so many others."
    )
    echo: bool = Field(False, description="Give the prompt before the reply.")
    best_of: int | None = Field(
        None, ge=1, le=20, description="Draw so many and give the best n; by default the likeliest."
    )
    suffix: Any = Field(None, description="Refused unless empty.")
