"""One row of a production log as what was asked and what was replied, for each shape of log."""

from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from preftune.fields import Row, items, mapping, need
from preftune.lines import RefusedError
from preftune.messages import KNOWN, Messages, Notes, read_messages, read_tools
from preftune.prompts.traffic import SEEN
from preftune.text import visible
from preftune.types import Message

Odd = Counter[str]
"""How often something could not be kept, or was read in a way that should be known."""

COLUMNS = {
    name: name
    for name in ("prompt", "response", "system", "model", "tags", "feedback", "id", "time")
}
"""Which column of a table holds what; `prompt` is needed."""
IDS = ("id", "custom_id", "request_id")
TIMES = ("time", "at", "timestamp", "created_at", "created")
"""Where the log's own id and time stand; the first that is there counts."""
_TURN_FIELDS = KNOWN - {"weight"} | {"refusal"}
_REQUEST_MARKS = frozenset(
    {"request", "response", "body", "choices", "temperature", "top_p", "max_tokens", "n", "stop"}
    | {"max_completion_tokens", "stream", "tool_choice", "response_format", "seed"}
)
_LONGEST_TAG = 200  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What was answered, and by which model."""

    message: Message
    generator: str | None
    finished: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One row of a log: what was asked, with what tools and tags, and the replies it has."""

    id: str  # the log's own, empty without one
    at: str
    asked: Messages
    tools: tuple[Row, ...] = ()
    replies: tuple[Reply, ...] = ()
    tags: tuple[str, ...] = ()


Reader = Callable[[Row, tuple[str, ...], Odd], Exchange]
"""Reads a row; the second argument names the fields to keep as tags."""


class _Choice(msgspec.Struct):
    message: Row
    finish_reason: str | None = None


def looks_like_a_request(row: Row) -> bool:
    """Whether a row is an API request or its log, not a plain conversation."""
    return bool(row.keys() & _REQUEST_MARKS)


def read_chat(row: Row, wanted: tuple[str, ...], odd: Odd) -> Exchange:
    """Return the exchange of a conversation: its last assistant turn is the reply.

    What follows that turn, such as a "thanks", is left out and counted. Fields: `messages`, and
    where they are `tools`, `tags`, `model`, `feedback`, and one of `IDS` and of `TIMES`.

    Raises:
        RefusedError: the row cannot be used; says why.
    """
    messages = _messages(need(row, "messages"), "messages", odd)
    own = _own(row)
    kept = {"messages", "tools", "tags", "model", "feedback", *own.fields}
    _note_left_out(row, kept, wanted, odd)
    last = _last_reply(messages)
    if last is not None and last < len(messages) - 1:
        odd["turns after the last reply, left out"] += 1
    return _exchange(
        own,
        messages if last is None else messages[:last],
        tools=_tools(row),
        replies=() if last is None else _replies(messages[last], _model(row), odd),
        tags=_tags(row, wanted, _places(row), odd),
    )


def read_openai(row: Row, wanted: tuple[str, ...], odd: Odd) -> Exchange:
    """Return the exchange of an API request: as sent, logged with its response, or stored.

    Shapes: `{"request": {…}, "response": {…}}`, each of the two bare or under `body`; a request
    body alone; a stored completion, whose `choices` stand beside its `messages` or `input`.

    Raises:
        RefusedError: the row cannot be used; says why.
    """
    request, response = _request_and_response(row)
    sent = request.get("messages", request.get("input"))
    if sent is None:
        raise RefusedError("missing_field", "the request has no 'messages'", "Add them to the row.")
    messages = _messages(sent, "messages", odd)
    kept = {"messages", "input", "tools", "model", "choices", "tags", "feedback"}
    own = _own(row, request, response or {})
    kept |= {"request", "response", "body", *own.fields}
    _note_left_out({**row, **request}, kept, wanted, odd)
    model = _model(response or {}) or _model(request) or _model(row)
    replies: tuple[Reply, ...] = ()
    if response is not None:
        replies = _choices(response, model, odd)
    elif messages[-1].role == "assistant":
        messages, replies = messages[:-1], _replies(messages[-1], model, odd)
    tags = _tags(row, wanted, [*_places(row), *_places(request)], odd)
    return _exchange(own, messages, tools=_tools(request), replies=replies, tags=tags)


def csv_reader(columns: Mapping[str, str]) -> Reader:
    """Return a reader of a table in which `columns` says what stands where, see `COLUMNS`."""

    def read(row: Row, wanted: tuple[str, ...], odd: Odd) -> Exchange:
        cells = {name: row.get(column, "") for name, column in columns.items()}
        _note_left_out(row, set(columns.values()), wanted, odd)
        system = (Message(role="system", content=cells["system"]),) if cells["system"] else ()
        answer = Message(role="assistant", content=cells["response"])
        tags = [tag.strip() for tag in cells["tags"].split(";") if tag.strip()]
        said = {"tags": tags, "feedback": cells["feedback"] or None}
        return _exchange(
            _own({"id": cells["id"], "time": cells["time"]}),
            (*system, Message(role="user", content=cells["prompt"])),
            replies=_replies(answer, cells["model"] or None, odd) if cells["response"] else (),
            tags=_tags(said, wanted, [row], odd),
        )

    return read


def log_id(row: Row) -> str:
    """Return the log's own id of a row of JSON, empty without one."""
    try:
        request, response = _request_and_response(row)
    except RefusedError:
        request, response = {}, None
    return _own(row, request, response or {}).id


class _Own(NamedTuple):
    """The log's own id and time of a row, and the fields that they stand in."""

    id: str
    at: str
    fields: frozenset[str] = frozenset()


def _own(*places: Row) -> _Own:
    """Return the first id and the first time in these places; a long or nested one is none."""
    id_field, id = _first_of(IDS, places)
    at_field, at = _first_of(TIMES, places)
    return _Own(id=id, at=at, fields=frozenset({id_field, at_field}))


def _first_of(names: tuple[str, ...], places: tuple[Row, ...]) -> tuple[str, str]:
    for place in places:
        for name in names:
            value = place.get(name)
            if isinstance(value, str | int | float) and 0 < len(str(value)) <= _LONGEST_TAG:
                return name, str(value)
    return "", ""


def _exchange(own: _Own, asked: Messages, **fields: Any) -> Exchange:
    if not any(m.role == "user" and m.content.strip() for m in asked):
        fix = "Leave the row out, or add what the user said."
        raise RefusedError("no_user_turn", "nobody asks anything before the reply", fix)
    return Exchange(id=own.id, at=own.at, asked=asked, **fields)


def _request_and_response(row: Row) -> tuple[Row, Row | None]:
    """Return the request and its response, which is None where the row has none."""
    if "request" in row:
        request = _body(mapping(row["request"], "request"))
    elif "body" in row:
        request = mapping(row["body"], "body")
    else:
        request = row
    if "choices" in row:
        return request, row
    answered = row.get("response")
    if answered is None:
        return request, None
    if isinstance(answered, str):
        return request, {"choices": [{"message": {"role": "assistant", "content": answered}}]}
    return request, _body(mapping(answered, "response"))


def _body(value: Row) -> Row:
    return mapping(value["body"], "body") if isinstance(value.get("body"), dict) else value


def _choices(response: Row, model: str | None, odd: Odd) -> tuple[Reply, ...]:
    if "choices" not in response:
        odd["requests that failed"] += 1
        return ()
    replies: list[Reply] = []
    for choice in _converted(response["choices"], list[_Choice], "choices"):
        (message,) = _messages([choice.message], "choices.message", odd)
        if message.role != "assistant":
            what = f"a choice has role {message.role!r}"
            raise RefusedError("unknown_role", what, "A reply is an assistant turn.")
        finished = choice.finish_reason != "length"
        replies += _replies(message, model, odd, finished=finished)
    return tuple(replies)


def _replies(
    message: Message, model: str | None, odd: Odd, *, finished: bool = True
) -> tuple[Reply, ...]:
    """Return the reply, or nothing when it is empty: that is counted and never a response."""
    if message.content.strip() or message.tool_calls:
        return (Reply(message=message, generator=model, finished=finished),)
    odd["empty replies, left out"] += 1
    return ()


def _last_reply(messages: Messages) -> int | None:
    places = [place for place, message in enumerate(messages) if message.role == "assistant"]
    return places[-1] if places else None


def _messages(value: object, where: str, odd: Odd) -> Messages:
    """Return the turns of a conversation; what nothing reads of them is counted."""
    turns = [mapping(one, f"{where}[{place}]") for place, one in enumerate(items(value, where))]
    for turn in turns:
        _note_left_out(turn, _TURN_FIELDS, (), odd)
    notes: Notes = []
    found = read_messages([_read_of(turn) for turn in turns], where, notes)
    if renamed := sum(note.kind == "developer_role" for note in notes):
        odd["role developer, read as system"] += renamed
    return found


def _read_of(turn: Row) -> Row:
    """Return the fields of a turn that are read; one without content is empty."""
    kept = {name: turn[name] for name in turn.keys() & _TURN_FIELDS}
    silent = kept.get("content") is None and kept.get("refusal") is None
    return kept | {"content": ""} if silent else kept


def _tools(row: Row) -> tuple[Row, ...]:
    return read_tools(row["tools"]) if row.get("tools") else ()


def _tags(row: Row, wanted: tuple[str, ...], places: list[Row], odd: Odd) -> tuple[str, ...]:
    """Return the tags of the row, the fields wanted as tags from wherever they stand, feedback."""
    tags: list[str] = _converted(row.get("tags") or [], list[str], "tags")
    for name in wanted:
        value = next((place[name] for place in places if place.get(name) not in (None, "")), None)
        if value is not None and (text := _short(value, name)):
            tags.append(f"{name}:{text}")
    if (feedback := row.get("feedback")) is not None:
        if isinstance(feedback, str | int | float) and len(str(feedback)) <= _LONGEST_TAG:
            tags.append(f"feedback:{str(feedback).strip()}")
        else:
            odd["feedback that is not a short word, left out"] += 1
    for tag in tags:
        if tag.startswith(SEEN):
            what = f"tag {visible(tag[:40])!r} begins with '{SEEN}', which holds the count"
            raise RefusedError("reserved_tag", what, "Rename the tag.")
    return tuple(dict.fromkeys(tags))


def _places(row: Row) -> list[Row]:
    """Return where a field wanted as a tag may stand: the row, and its `metadata`."""
    metadata = row.get("metadata")
    return [row, metadata] if isinstance(metadata, dict) else [row]


def _short(value: object, name: str) -> str:
    if not isinstance(value, str | int | float) or len(str(value)) > _LONGEST_TAG:
        what = f"field {visible(name)!r} is to be a tag, and is no short text"
        raise RefusedError("wrong_type", what, "Leave that --tag out, or give a short text.")
    return str(value).strip()


def _model(row: Row) -> str | None:
    model = row.get("model")
    if model is not None and not isinstance(model, str):
        raise RefusedError("wrong_type", "model is not text", "Give its name.")
    return model or None


def _converted(value: object, type: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        what = f"{where}: {visible(str(error))[:200]}"
        raise RefusedError("wrong_type", what, "Give what the chat API has there.") from error


def _note_left_out(row: Row, kept: Set[str], wanted: tuple[str, ...], odd: Odd) -> None:
    """Count the fields of a row that nothing reads; `metadata` is read for the wanted tags only."""
    read = kept | set(wanted)
    if wanted and isinstance(row.get("metadata"), dict):
        row = {**row, "metadata": None, **row["metadata"]}
    for name in row.keys() - read:
        if row[name] not in (None, ""):
            odd[f"field {visible(name[:40])!r}, left out"] += 1
