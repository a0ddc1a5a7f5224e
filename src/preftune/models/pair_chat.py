"""Chats for encoders: `[CLS] prompt [SEP] response [SEP]`, in the tokenizer's own arrangement."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preftune.errors import ModelError
from preftune.models.chat import Chat, Kind, TrainOn, check_ends
from preftune.models.plain import PlainText, Run, control_tokens
from preftune.models.tokens import TokenSequence
from preftune.types import Message, Prompt

ARRANGEMENT = "encoder pair; each turn a line of `role: content`"


class PairChat(Chat):
    """An encoder's tokenizer: reads a prompt with a response, never writes one.

    The prompt ids run through the first separator; the response ids, the closing separator
    included, are the own tokens. Segment ids are 0 for the former and 1 for the latter.
    """

    kind: Kind = "encoder"

    def __init__(
        self, tokenizer: Any, *, where: str = "tokenizer", max_length: int | None = None
    ) -> None:
        self.tokenizer, self.template, self.where = tokenizer, ARRANGEMENT, where
        self.max_length = max_length
        self.template_hash = hashlib.sha256(ARRANGEMENT.encode()).hexdigest()
        self._plain = PlainText(tokenizer, control_tokens(tokenizer, ""))
        self._opening, self._between, self._closing = self._arrangement()
        self.end_ids = self._closing[-1:]
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.closes_turns = True

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return `[CLS] prompt [SEP]` as ids."""
        text = _transcript((*_tool_lines(prompt), *prompt.messages))
        (ids,) = self._plain.encode_all([Run(text=text, follows="control")])
        return (*self._opening, *ids, *self._between)

    def encode(
        self, prompt: Prompt, response: tuple[Message, ...], *, train_on: TrainOn = "last"
    ) -> TokenSequence:
        """Return `[CLS] prompt [SEP] response [SEP]`; all of the response is own.

        Raises:
            DataError: the response doesn't start and end with an assistant turn.
            ModelError: `train_on` is "all": an encoder scores one response at a time.
        """
        (sequence,) = self.encode_all([(prompt, response)], train_on=train_on)
        return sequence

    def encode_all(
        self, rows: Sequence[tuple[Prompt, tuple[Message, ...]]], *, train_on: TrainOn = "last"
    ) -> list[TokenSequence]:
        """Return what `encode` gives for each row; a prompt that rows share is read once.

        Raises:
            DataError: as `encode`, of the first row it holds for.
            ModelError: as `encode`.
        """
        if train_on == "all":
            raise ModelError(f"{self.where}: an encoder scores one response. Use train_on='last'.")
        for prompt, response in rows:
            check_ends(prompt, response)
        prompts = {id(prompt): prompt for prompt, _ in rows}
        asked = {key: self.prompt_ids(prompt) for key, prompt in prompts.items()}
        runs = [Run(text=_transcript(response), follows="control") for _, response in rows]
        return [
            self._sequence(asked[id(prompt)], ids)
            for (prompt, _), ids in zip(rows, self._plain.encode_all(runs), strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> tuple[Message, bool]:
        """Refuse: an encoder writes nothing.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"{self.where}: an encoder writes no text ({len(ids)} ids). Use a language model."
        )

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer in the usual Hugging Face files."""
        self.tokenizer.save_pretrained(str(folder))

    def _sequence(self, asked: tuple[int, ...], ids: list[int]) -> TokenSequence:
        answered = (*ids, *self._closing)
        own = (False,) * len(asked) + (True,) * len(answered)
        return TokenSequence(prompt_ids=asked, response_ids=answered, own=own)

    def _arrangement(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the ids before, between and after a pair, as the tokenizer arranges them."""
        pair = self.tokenizer("a", "b")
        sides = pair.sequence_ids()
        first = [i for i, side in enumerate(sides) if side == 0]
        second = [i for i, side in enumerate(sides) if side == 1]
        parts = (
            range(first[0]),
            range(first[-1] + 1, second[0]),
            range(second[-1] + 1, len(sides)),
        )
        opening, between, closing = (tuple(pair.input_ids[i] for i in part) for part in parts)
        if not (opening and between and closing):
            raise ModelError(
                f"{self.where}: the tokenizer puts no tokens around a pair. "
                "Use an encoder's tokenizer, which writes [CLS] a [SEP] b [SEP]."
            )
        return opening, between, closing


def _transcript(messages: Sequence[Message]) -> str:
    return "\n".join(
        f"{m.role}: {' '.join([m.content, *(f'{c.name}({c.arguments})' for c in m.tool_calls)])}"
        for m in messages
    )


def _tool_lines(prompt: Prompt) -> list[Message]:
    return [Message(role="system", content=str(tool)) for tool in prompt.tools]
