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
from itertools import chain
from typing import Any, Literal

from tokenizers import Tokenizer

from preftune.errors import ModelError

Follows = Literal["start", "text", "control"]
"""What a text follows: nothing, other text, or a control token."""

PRIVATE_USE = range(0xE000, 0xF900)
WORD_END = re.compile(r" (?<=[!-~\w] )")  # a blank after a character that is surely none itself
KEPT_CHARS = 1 << 20  # characters of words whose ids are remembered

LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "BertNormalizer", "Prepend"}
"""Normalizers that change no text on one side of a blank because of the text on the other."""

ALTERNATIVES = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?:s|t|re|ve|m|ll|d)",
    *(rf"'{ending}" for ending in ("s", "t", "re", "ve", "m", "ll", "d")),
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r"\p{N}+",
    r"\p{N}",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
}
"""What the usual patterns are made of (GPT-2, cl100k, Llama 3, Qwen). None matches a blank after
another character than a blank, so a blank after a word always starts a new match."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Text between two control tokens."""

    text: str
    follows: Follows


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

    def is_free(self, text: str) -> bool:
        """Whether `mark` would leave the text as it is."""
        return not any(self._starts(text, m.start()) for m in self._candidates.finditer(text))

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
        self._cuts = starts_anew_at_blanks(self._spec, adds_prefix=self.adds_prefix)
        added = (re.escape(token["content"]) for token in self._spec["added_tokens"])
        self._added = re.compile("|".join(added) or "(?!)")  # those that are no control tokens
        self._words: dict[str, dict[str, list[int]]] = {}  # by spec and what stands before the word
        self._kept_chars = 0

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
        ids = self._allowed([real_ids[i] for i in encoding.ids])
        return Encoded(ids=tuple(ids), spans=tuple(encoding.offsets))

    def encode_all(self, runs: Sequence[Run]) -> list[list[int]]:
        """Return the ids of each run, the same that `encode` gives.

        Where the tokenizer starts anew at every blank after a word, the runs are cut there and
        each word is encoded once: words come again and again.

        Raises:
            ModelError: the tokenizer makes a control token out of plain text all the same.
        """
        if self._kept_chars > KEPT_CHARS:
            self._words.clear()
            self._kept_chars = 0
        cut = [self._cut(run.text) for run in runs]
        firsts: dict[Follows, set[str]] = {}
        for run, (first, *_) in zip(runs, cut, strict=True):
            firsts.setdefault(run.follows, set()).add(first)
        known = {follows: self._learn(words, follows, "") for follows, words in firsts.items()}
        rest = self._learn(set(chain.from_iterable(words[1:] for words in cut)), "text", " ")
        return [
            [*known[run.follows][words[0]], *chain.from_iterable(map(rest.__getitem__, words[1:]))]
            for run, words in zip(runs, cut, strict=True)
        ]

    def _cut(self, text: str) -> list[str]:
        """Return the words of a text without the blanks between; the text if it can't be cut."""
        return WORD_END.split(text) if self._cuts and not self._added.search(text) else [text]

    def _learn(self, words: set[str], follows: Follows, before: str) -> dict[str, list[int]]:
        """Return the ids of words met so far, these among them, with `before` put before each."""
        known = self._words.setdefault(f"{before}|{self._spec_at(follows)}", {})
        new = list(words.difference(known))
        if new:
            plain, real_ids = self._copy(follows)
            encoded = plain.encode_batch_fast([before + w for w in new], add_special_tokens=False)
            for word, encoding in zip(new, encoded, strict=True):
                known[word] = self._allowed([real_ids[i] for i in encoding.ids])
                self._kept_chars += len(word)
        return known

    def _allowed(self, ids: list[int]) -> list[int]:
        if not self._forbidden.isdisjoint(ids):
            name = self._tokenizer.convert_ids_to_tokens(
                next(i for i in ids if i in self._forbidden)
            )
            raise ModelError(
                f"tokenizer: makes the control token {name!r} out of plain text. "
                "Use a tokenizer whose control tokens are added tokens only."
            )
        return ids

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


def starts_anew_at_blanks(spec: dict[str, Any], *, adds_prefix: bool) -> bool:
    """Whether ids of text before a blank that follows a word never depend on what comes after it.

    Then a text without added tokens can be cut before such blanks and its parts be encoded one by
    one. Only parts of a tokenizer that are known to keep to this count; any other makes it False.
    """
    cutters = _parts(spec["pre_tokenizer"], "pretokenizers")
    if adds_prefix and len(cutters) > 1:
        return False  # more than the very first word may get a blank put before it
    normalizers = _parts(spec["normalizer"], "normalizers")
    if not all(_is_local(part) for part in normalizers):
        return False
    if normalizers and any(token["normalized"] for token in spec["added_tokens"]):
        return False
    if all(_is_unsplit_metaspace(part) for part in cutters):
        return _never_joins_words(spec["model"], blank_is_marked=bool(cutters or normalizers))
    return all(_cuts_before_blanks(part) or _keeps_cuts(part) for part in cutters) and any(
        _cuts_before_blanks(part) for part in cutters
    )


def _is_local(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        return bool(normalizer["pattern"] == {"String": " "} and normalizer["content"] == "▁")
    return normalizer["type"] in LOCAL_NORMALIZERS


def _is_unsplit_metaspace(part: dict[str, Any]) -> bool:
    return part["type"] == "Metaspace" and not part.get("split", True)


def _cuts_before_blanks(part: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer always starts a new piece at a blank that follows a word."""
    match part:
        case {"type": "ByteLevel"}:
            return bool(part.get("use_regex", True))
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            parts = _alternatives(pattern)
            return not part["invert"] and r"\s+" in parts and parts <= ALTERNATIVES
        case {"type": "Metaspace"}:
            return part["replacement"] == "▁" and bool(part.get("split", True))
        case {"type": "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer"}:
            return True
    return False


def _keeps_cuts(part: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer looks at single characters only, or at nothing."""
    return part["type"] in ("Digits", "Punctuation") or (
        part["type"] == "ByteLevel" and not part["add_prefix_space"]
    )


def _alternatives(pattern: str) -> set[str]:
    """Return the parts of a regular expression between the bars outside all brackets."""
    found, depth, done = [], 0, 0
    for i, char in enumerate(pattern):
        depth += (char in "([") - (char in ")]")
        if char == "|" and not depth:
            found.append(pattern[done:i])
            done = i + 1
    return {*found, pattern[done:]}


def _never_joins_words(model: dict[str, Any], *, blank_is_marked: bool) -> bool:
    """Whether a BPE over whole texts has no piece in which a blank follows something else.

    Merges only ever make pieces of the vocabulary, so none reaches over such a blank.
    """
    if model["type"] != "BPE" or not blank_is_marked or "▁" not in model["vocab"]:
        return False
    if model["dropout"] or model["end_of_word_suffix"] or model["continuing_subword_prefix"]:
        return False
    return not any("▁" in piece.lstrip("▁") for piece in model["vocab"])


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
