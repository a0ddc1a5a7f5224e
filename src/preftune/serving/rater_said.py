"""What a rater's page may send, checked before the store sees it."""

from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from preftune.serving.web import Payload
from preftune.store.items import FIELDS, Verdict
from preftune.store.labels import LONGEST_WHY, Vote

DAY_S = 86_400.0
ItemId = Annotated[str, Field(min_length=1, max_length=64)]


class _Sent(Payload):
    """A body whose texts can all be written as UTF-8."""

    @model_validator(mode="before")
    @classmethod
    def can_be_written(cls, value: Any) -> Any:
        """Refuse lone surrogates: JSON may carry them, no store can keep them."""
        try:
            msgspec.json.encode(value)
        except UnicodeEncodeError as error:
            raise ValueError("holds half of a surrogate pair") from error
        return value


class SaidVerdict(Payload):
    """A verdict on responses as shown: the field of its kind, and no other."""

    kind: Literal["binary", "scale", "ranking", "rewrite", "tie"]
    choice: Annotated[int, Field(ge=0, le=25)] | None = None
    grade: Annotated[int, Field(ge=1, le=7)] | None = None
    ranking: list[list[int]] | None = None
    rewrite: str | None = None

    @model_validator(mode="after")
    def just_its_own_field(self) -> Self:
        """Refuse a verdict that says two things, or nothing."""
        given = [name for name in FIELDS.values() if getattr(self, name) is not None]
        wanted = [FIELDS[self.kind]] if self.kind in FIELDS else []
        if given != wanted:
            raise ValueError(f"kind {self.kind} takes {' '.join(wanted) or 'nothing else'}")
        return self


class Said(_Sent):
    """Verdicts on one item, one for each dimension."""

    item_id: ItemId
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    verdicts: Annotated[dict[str, SaidVerdict], Field(max_length=100)]
    why: Annotated[dict[str, str], Field(max_length=100, default_factory=dict)]
    seconds: Annotated[float, Field(ge=0, le=DAY_S)] | None = None


class Undo(Payload):
    """Take back the last verdict: nothing to say but that."""


class Skipped(_Sent):
    """Leave an item to others."""

    item_id: ItemId


class Flagged(_Sent):
    """Something is wrong with an item."""

    item_id: ItemId
    why: Annotated[str, Field(max_length=LONGEST_WHY)] = ""


def vote_of(said: Said, key: str) -> Vote:
    """Return what was sent as the store takes it."""
    return Vote(
        key=key,
        item_id=said.item_id,
        round=said.round,
        verdicts={dimension: _verdict(sent) for dimension, sent in said.verdicts.items()},
        why=dict(said.why),
        seconds=said.seconds,
    )


def _verdict(sent: SaidVerdict) -> Verdict:
    fields: dict[str, Any] = sent.model_dump(exclude_none=True)
    return fields
