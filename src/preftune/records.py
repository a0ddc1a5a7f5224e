"""One record as one JSON line: the fields of types.py, and `type` first to say which it is."""

import msgspec

from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    Response,
    UnpairedRow,
)

TAGS: dict[str, type[Record]] = {
    "pair": PreferencePair,
    "ranked": RankedList,
    "unpaired": UnpairedRow,
    "demonstration": Demonstration,
    "prompt": Prompt,
    "response": Response,
    "comparison": Comparison,
    "judgment": Judgment,
}
_TAG_OF = {cls: tag for tag, cls in TAGS.items()}
_DECODERS = {tag: msgspec.json.Decoder(cls) for tag, cls in TAGS.items()}
_ENCODER = msgspec.json.Encoder()


class _Tagged(msgspec.Struct):
    type: str


_TAG_DECODER = msgspec.json.Decoder(_Tagged)


def encode(record: Record) -> bytes:
    """Return the record as one line of JSON that ends in a newline; equal records, equal bytes."""
    return b'{"type":"%s",%s\n' % (_TAG_OF[type(record)].encode(), _ENCODER.encode(record)[1:])


def decode(line: bytes) -> Record:
    """Return the record of one line; fields that its type does not have are not looked at.

    Raises:
        DataError: not JSON, no known `type`, a field missing or of the wrong type, or a record that
            breaks its own contract. The message holds no place: the caller knows file and line.
    """
    try:
        tag = _TAG_DECODER.decode(line).type
        if tag not in _DECODERS:
            raise DataError(f"unknown type {tag!r}. Use one of: {', '.join(TAGS)}.")
        return _DECODERS[tag].decode(line)
    except msgspec.MsgspecError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        fix = "Give one JSON record per line, its `type` among the fields"
        raise DataError(f"{error}. {fix}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
