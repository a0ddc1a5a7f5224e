"""The texts of a file, to train a tokenizer on."""

from collections.abc import Iterator
from pathlib import Path

from preftune.datasets import read_records
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    Response,
    UnpairedRow,
)


def read_texts(file: Path | str) -> list[str]:
    """Return the lines of a `.txt` file, or every message of a file of records.

    Raises:
        DataError: the file cannot be read, or holds no text.
    """
    path = Path(file)
    if path.suffix == ".txt":
        try:
            texts = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}. Give a readable UTF-8 text file.") from error
    else:
        records = read_records(path).records
        texts = [message.content for record in records for message in _messages(record)]
    if not any(text.strip() for text in texts):
        raise DataError(f"{path}: no text in it. Give text to train the tokenizer on.")
    return texts


def _messages(record: Record) -> Iterator[Message]:
    match record:
        case Prompt() | Response():
            yield from record.messages
            return
        case PreferencePair():
            answers = [record.chosen, record.rejected]
        case RankedList():
            answers = list(record.responses)
        case Comparison():
            answers = [response.messages for response in record.responses]
        case UnpairedRow() | Demonstration():
            answers = [record.response]
        case _:
            return
    yield from record.prompt.messages
    for answer in answers:
        yield from answer
