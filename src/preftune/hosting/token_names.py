"""Single tokens as text and as bytes, for log-probs."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from preftune.models.chat import Chat

Names = Callable[[int], tuple[str, bytes]]
KEPT = 4096  # tokens whose names are remembered
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenNames:
    """Names of the tokens of one tokenizer."""

    def __init__(self, chat: Chat) -> None:
        self._tokenizer: Any = chat.tokenizer
        decoder = self._tokenizer.backend_tokenizer.decoder
        self._byte_level = "ByteLevel" in str(decoder)
        self.of = lru_cache(KEPT)(self._of)

    def written(self, id_: int) -> tuple[str, bytes]:
        """Return what a token adds to a reply's text: special tokens are left out of it."""
        added = self._tokenizer.added_tokens_decoder.get(id_)
        return ("", b"") if added is not None and added.special else self.of(id_)

    def _of(self, id_: int) -> tuple[str, bytes]:
        """Return a token's text and its bytes; bytes that are no text alone are spelt as U+FFFD."""
        piece = str(self._tokenizer.convert_ids_to_tokens(id_) or "")
        added = self._tokenizer.added_tokens_decoder.get(id_)
        if added is not None:
            raw = added.content.encode()
        elif self._byte_level and all(char in BYTES_OF for char in piece):
            raw = bytes(BYTES_OF[char] for char in piece)
        elif found := BYTE_PIECE.fullmatch(piece):
            raw = bytes([int(found[1], 16)])
        else:
            raw = piece.replace("▁", " ").encode()
        return raw.decode(errors="replace"), raw


def _bytes_of() -> dict[str, int]:
    """Return the byte of each character in GPT-2's vocabulary: printable ones are themselves.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners", code.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


BYTES_OF = _bytes_of()
