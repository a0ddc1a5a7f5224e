"""The frozen records that pass between stages: what was asked, answered, shown, said, and learnt.

prompts → responses → comparisons → judgments → pairs. Everything a rater said stays on the record
until the loss: strength becomes a margin or an offset, probability a soft label, a ranking a
Plackett–Luce term, a tie its own term.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from preftune.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
PromptOrigin = Literal["log", "written", "synthetic", "unknown"]
ResponseOrigin = Literal["sampled", "logged", "rewritten", "written", "unknown"]
RaterKind = Literal["human", "judge", "rule", "simulated", "unknown"]
JudgmentKind = Literal["binary", "scale", "ranking", "rewrite", "tie", "unparsed"]

GRADES = (
    "first much better",
    "first better",
    "first slightly better",
    "about equal",
    "second slightly better",
    "second better",
    "second much better",
)
"""The seven grades, 1..7 in this order; strength = abs(4 - grade)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call of a tool by the assistant; `arguments` is the JSON text the model wrote."""

    id: str = ""
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn. `weight` 0 keeps an assistant turn out of training, 1 trains on it."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: Literal[0, 1] = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRow:
    """One row of a log, so that whoever has the log finds it again."""

    file: str  # its name, without folders
    sha256: str  # of the file's bytes, 64 hex digits
    line: int  # from 1
    id: str = ""  # the log's own; `hmac:…` when only a key beside the log leads back from it
    at: str = ""  # when, as the log has it


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What was asked: all turns before the response, the system turn included."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    tags: tuple[str, ...] = ()
    source: str = ""
    origin: PromptOrigin = "unknown"
    log_rows: tuple[LogRow, ...] = ()  # that asked it, the first ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a response was drawn."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()  # texts that ended the response, which is cut before them


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One answer to a prompt; several messages when it is multi-turn or calls tools."""

    id: str
    prompt_id: str
    messages: tuple[Message, ...]
    generator: str | None = None
    sampling: Sampling | None = None
    origin: ResponseOrigin = "unknown"
    finished: bool = True  # False: cut at max_new_tokens, no end of turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A prompt and k >= 2 responses in the order shown."""

    id: str
    prompt: Prompt
    responses: tuple[Response, ...]

    def __post_init__(self) -> None:
        if len(self.responses) < 2:
            raise DataError(
                f"comparison {self.id}: {len(self.responses)} response. Show two or more."
            )

    def swap(self) -> "Comparison":
        """Return the same comparison shown in the reverse order, under an id of its own."""
        swapped = self.id.removesuffix("~swapped") if "~" in self.id else f"{self.id}~swapped"
        return replace(self, id=swapped, responses=self.responses[::-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rater:
    """Who judged: a person, a judge model, a rule, or a simulated person (never shown as human)."""

    id: str
    kind: RaterKind = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgment:
    """One rater's verdict on one comparison, in one dimension. Positions count from 0 as shown.

    `binary` has `choice`; `scale` has `grade` 1..7 (4 is about equal, see `GRADES`); `ranking` has
    groups of positions, best first, tied positions in one group; `rewrite` has the new response;
    `tie` has none of them. `unparsed` has none either and is no verdict: a judge's answer, kept in
    `said` or `why`, in which no verdict was found; it is counted and never scored. `scores` are
    absolute marks per response in the rater's own units, such as 0–100 ratings or acceptable 1 / 0.
    `said` is the label exactly as the source wrote it, `at` when it was given (ISO 8601).
    """

    id: str
    comparison_id: str
    kind: JudgmentKind
    rater: Rater
    choice: int | None = None
    grade: int | None = None
    ranking: tuple[tuple[int, ...], ...] = ()
    rewrite: Response | None = None
    dimension: str = "overall"
    scores: tuple[float, ...] = ()
    said: str = ""
    why: str = ""
    guideline: str = ""
    seconds: float | None = None
    at: str = ""

    def __post_init__(self) -> None:
        needed = {"binary": "choice", "scale": "grade", "ranking": "ranking", "rewrite": "rewrite"}
        given = [
            name
            for name in needed.values()
            if getattr(self, name) is not None and getattr(self, name) != ()
        ]
        wanted = [needed[self.kind]] if self.kind in needed else []
        if given != wanted:
            raise DataError(
                f"judgment {self.id}: kind {self.kind!r} needs {wanted or 'no verdict field'}, "
                f"got {given}. Set just the field of its kind."
            )
        if self.grade is not None and not 1 <= self.grade <= 7:
            raise DataError(f"judgment {self.id}: grade {self.grade}. Grades run from 1 to 7.")

    @property
    def strength(self) -> int | None:
        """How clear the verdict is: 0..3 from a grade, 0 for a tie, None when not said."""
        if self.grade is not None:
            return abs(4 - self.grade)
        return 0 if self.kind == "tie" else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a pair came from, so that it can be traced back and rebuilt without one rater."""

    source: str = ""
    comparison_id: str = ""
    raters: tuple[str, ...] = ()
    rater_kind: RaterKind = "unknown"
    guideline: str = ""
    chosen_generator: str | None = None
    rejected_generator: str | None = None
    chosen_shown_first: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """Chosen is better than rejected; a tie is a comparison and never a pair."""

    id: str
    prompt: Prompt
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    strength: int | None = None  # 0..3; None: not said
    probability: float = 1.0  # that chosen really is better; 1.0 when unknown
    weight: float = 1.0
    dimension: str = "overall"
    chosen_score: float | None = None
    rejected_score: float | None = None
    why: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.chosen == self.rejected:
            raise DataError(f"pair {self.id}: chosen equals rejected. Record a tie instead.")
        if self.strength is not None and not 0 <= self.strength <= 3:
            raise DataError(f"pair {self.id}: strength {self.strength}. Strength runs from 0 to 3.")
        if not 0.0 <= self.probability <= 1.0:
            raise DataError(
                f"pair {self.id}: probability {self.probability}. Use a number in 0..1."
            )
        if not 0.0 <= self.weight < float("inf"):
            raise DataError(f"pair {self.id}: weight {self.weight}. Use a number >= 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedList:
    """k >= 2 responses to one prompt, best first; equal `ranks` are ties."""

    id: str
    prompt: Prompt
    responses: tuple[tuple[Message, ...], ...]
    ranks: tuple[int, ...]
    weight: float = 1.0
    dimension: str = "overall"
    scores: tuple[float, ...] = ()
    why: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if len(self.responses) < 2 or len(self.ranks) != len(self.responses):
            raise DataError(
                f"ranked list {self.id}: {len(self.responses)} responses, {len(self.ranks)} ranks. "
                "Give two or more responses and one rank each."
            )
        if list(self.ranks) != sorted(self.ranks):
            raise DataError(f"ranked list {self.id}: ranks fall. Put the best response first.")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpairedRow:
    """One response marked desirable or not, with no partner (KTO)."""

    id: str
    prompt: Prompt
    response: tuple[Message, ...]
    desirable: bool
    weight: float = 1.0
    dimension: str = "overall"
    provenance: Provenance = field(default_factory=Provenance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """A prompt and the response to imitate (SFT)."""

    id: str
    prompt: Prompt
    response: tuple[Message, ...]
    weight: float = 1.0


Record = (
    PreferencePair
    | RankedList
    | UnpairedRow
    | Demonstration
    | Prompt
    | Response
    | Comparison
    | Judgment
)


def content_id(prefix: str, *parts: object) -> str:
    """Return `prefix-` + 128 bits of SHA-256 over the parts: equal content, equal id."""
    encoded = msgspec.json.encode(parts, order="sorted")
    return f"{prefix}-{hashlib.sha256(encoded).hexdigest()[:32]}"


def make_prompt(*messages: Message, **fields: Any) -> Prompt:
    """Return a prompt whose id is the hash of its messages and tools."""
    return Prompt(
        id=content_id("p", messages, fields.get("tools", ())), messages=messages, **fields
    )


def user(content: str) -> Message:
    """Return a user turn."""
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    """Return an assistant turn."""
    return Message(role="assistant", content=content)


def text_of(messages: tuple[Message, ...]) -> str:
    """Return the assistant's words in these messages, turns joined by a blank line."""
    return "\n\n".join(m.content for m in messages if m.role == "assistant")
