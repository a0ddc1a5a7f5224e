"""Text to ids in which only the template's own words can become control tokens.

A control token opens or closes turns: every special token, and every added token the template
writes. Text from outside is encoded by a copy of the tokenizer that has no control tokens at all,
so that `<|im_end|>` typed by a user stays text, whatever the tokenizer.
"""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

from preftune.errors import ModelError

Follows = Literal["start", "text", "control"]
"""What a text follows: nothing, other text, or a control token."""

PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Ids with the span of characters each came from."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """One control token and the blanks it swallows on either side."""

    id: int
    text: str
    lstrip: bool
    rstrip: bool


def control_tokens(tokenizer: Any, template_text: str) -> tuple[Control, ...]:
    """Return the control tokens of a tokenizer under a template, longest first."""
    special = set(tokenizer.all_special_tokens)
    found = [
        Control(id=id_, text=token.content, lstrip=token.lstrip, rstrip=token.rstrip)
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content in special or token.content in template_text
    ]
    return tuple(sorted(found, key=lambda c: (-len(c.text), c.text)))


class Finder:
    """Finds where control tokens stand in a text, in time linear in the text."""

    def __init__(self, tokens: Iterable[Control]) -> None:
        self.tokens = tuple(tokens)
        self._by_first: dict[str, list[Control]] = {}
        for token in self.tokens:
            self._by_first.setdefault(token.text[0], []).append(token)
        self._texts = {first: tuple(t.text for t in same) for first, same in self._by_first.items()}
        firsts = "".join(map(re.escape, self._by_first))
        self._candidates = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def mark(self, text: str, mark: str) -> str:
        """Put `mark` before every place in the text where a control token starts or could start.

        The end of the text counts when it is the beginning of a control token, so that two texts
        placed side by side cannot make one together.
        """
        found = (place.start() for place in self._candidates.finditer(text))
        places = [i for i in found if self._starts(text, i)]
        if not places:
            return text
        pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
        return mark.join(pieces)

    def split(self, text: str, mark: str) -> list[tuple[Control | None, int, int]]:
        """Cut a text into control tokens and the runs between them: (token or None, start, end)."""
        parts: list[tuple[Control | None, int, int]] = []
        done = 0
        for place in self._candidates.finditer(text):
            i = place.start()
            token = self._at(text, i) if i >= done and (i == 0 or text[i - 1] != mark) else None
            if token is None:
                continue
            start, end = i, i + len(token.text)
            if token.lstrip:
                start = done + len(text[done:start].rstrip())
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip())
            if start > done:
                parts.append((None, done, start))
            parts.append((token, start, end))
            done = end
        if done < len(text):
            parts.append((None, done, len(text)))
        return parts

    def _starts(self, text: str, i: int) -> bool:
        texts = self._texts[text[i]]
        if text.startswith(texts, i):
            return True
        tail = text[i : i + len(texts[0])].rstrip()
        rest_is_blank = not text[i + len(tail) :].strip()
        return rest_is_blank and any(t.startswith(tail) for t in texts)

    def _at(self, text: str, i: int) -> Control | None:
        return next((t for t in self._by_first[text[i]] if text.startswith(t.text, i)), None)


class PlainText:
    """A tokenizer robbed of its control tokens: text goes in, ordinary ids come out."""

    def __init__(self, tokenizer: Any, control: Sequence[Control]) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._copies: dict[str, tuple[Tokenizer, list[int]]] = {}
        self._specs: dict[Follows, str] = {}
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        self.unknown_id = _unknown_id(spec["model"])
        self._forbidden = {c.id for c in control} - {self.unknown_id}
        self._spec = _without(spec, {c.text for c in control if c.id != self.unknown_id})

    @property
    def adds_prefix(self) -> bool:
        """Whether the first word of a text gets a blank put before it (SentencePiece's habit)."""
        return self._spec_at("text") != self._spec_at("control")

    def encode(self, text: str, follows: Follows) -> Encoded:
        """Return the ids of a text; after other text no prefix blank is put before it.

        Raises:
            ModelError: the tokenizer makes a control token out of plain text all the same.
        """
        if not text:
            return Encoded(ids=(), spans=())
        plain, real_ids = self._copy(follows)
        encoding = plain.encode(text, add_special_tokens=False)
        ids = tuple(real_ids[i] for i in encoding.ids)
        if not self._forbidden.isdisjoint(ids):
            name = self._tokenizer.convert_ids_to_tokens(
                next(i for i in ids if i in self._forbidden)
            )
            raise ModelError(
                f"tokenizer: makes the control token {name!r} out of plain text. "
                "Use a tokenizer whose control tokens are added tokens only."
            )
        return Encoded(ids=ids, spans=tuple(encoding.offsets))

    def _copy(self, follows: Follows) -> tuple[Tokenizer, list[int]]:
        spec = self._spec_at(follows)
        if spec not in self._copies:
            plain = Tokenizer.from_str(spec)
            known = self._tokenizer.get_vocab()
            size = plain.get_vocab_size(with_added_tokens=True)
            names = {id_: token for token, id_ in plain.get_vocab(with_added_tokens=True).items()}
            real_ids = [
                known.get(names.get(i, ""), -1) for i in range(max(names, default=size) + 1)
            ]
            self._copies[spec] = (plain, real_ids)
        return self._copies[spec]

    def _spec_at(self, follows: Follows) -> str:
        if follows not in self._specs:
            self._specs[follows] = json.dumps(_after(self._spec, follows), sort_keys=True)
        return self._specs[follows]


def _unknown_id(model: dict[str, Any]) -> int | None:
    """Return the id the model itself gives to what it doesn't know; harmless wherever it stands."""
    if model["type"] == "Unigram":
        unknown: int | None = model.get("unk_id")
        return unknown
    name = model.get("unk_token")
    return model["vocab"].get(name) if name else None


def _without(spec: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    """Return a tokenizer spec without these tokens: not added, in the vocabulary or merged."""
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in hidden]
    spec["post_processor"] = spec["truncation"] = spec["padding"] = None
    model = spec["model"]
    if model["type"] == "Unigram":
        kept = [piece for piece in model["vocab"] if piece[0] not in hidden]
        if model.get("unk_id") is not None:
            model["unk_id"] = kept.index(model["vocab"][model["unk_id"]])
        model["vocab"] = kept
    else:
        in_vocab = hidden & model["vocab"].keys()
        for name in in_vocab:
            del model["vocab"][name]
        if in_vocab and "merges" in model:
            model["merges"] = [m for m in model["merges"] if not _touches(m, in_vocab)]
    return spec


def _touches(merge: Any, hidden: set[str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return not hidden.isdisjoint((left, right, left + right))


def _after(spec: dict[str, Any], follows: Follows) -> dict[str, Any]:
    """Return the spec with the prefix blank as it falls after what it follows."""
    spec = {**spec, "normalizer": copy.deepcopy(spec["normalizer"])}
    spec["pre_tokenizer"] = copy.deepcopy(spec["pre_tokenizer"])
    for part in _parts(spec["pre_tokenizer"], "pretokenizers"):
        if part["type"] == "Metaspace":
            first = part.get("prepend_scheme") == "first"
            if follows == "text" or (first and follows == "control"):
                part["prepend_scheme"] = "never"
        if part["type"] == "ByteLevel" and follows == "text":
            part["add_prefix_space"] = False
    if follows == "text":
        for part in _parts(spec["normalizer"], "normalizers"):
            if part["type"] == "Prepend":
                part["prepend"] = ""
    return spec


def _parts(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [p for inner in part[key] for p in _parts(inner, key)] if key in part else [part]
