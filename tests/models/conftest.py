"""Ten families of tokenizer and template, made on the spot in the shape of the real ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from preftune.models.chat import Chat
from preftune.models.templates import COMPACT, COMPACT_TOKENS, FALLBACK

TEXT = [
    "The quick brown fox jumps over the lazy dog and says hello to the world. " * 3,
    "Can I put my teddy bear in the washer? Yes, you can: thirty degrees, no spin.\n\nGood luck!",
    "def f(x):\n    return x + 1  # user assistant system tool [INST] < | > { } \" ' /\\ INST]",
]
CL100K = (
    r"'(?:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '\\n<tool_call>\\n' + c.function | tojson + '\\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ALTERNATE = (
    "{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}"
    "{% set head = '' %}{% set turns = messages %}{% endif %}"
    "{{ bos_token }}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
)
LLAMA2 = ALTERNATE + (
    "{% if m.role == 'user' %}"
    "{{ '[INST] ' + (head if loop.first else '') + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = ALTERNATE + (
    "{% if m.role == 'user' %}{{ '[INST]' + (head if loop.first else '') + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% for m in messages %}"
    "{% set text = '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n'"
    " + m.content | trim + '<|eot_id|>' %}"
    "{{ (bos_token if loop.first else '') + text }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n'"
    " + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


def byte_level(special: list[str], *, size: int = 420) -> Tokenizer:
    """Byte-level BPE as of GPT-2, Qwen and Llama 3."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CL100K), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return made


def sentencepiece_bpe(special: list[Any], *, legacy: bool) -> Tokenizer:
    """BPE on blanks turned into ▁, with bytes to fall back on, as of Llama 2, Mistral and Phi 3.

    The special tokens are in the vocabulary itself, as SentencePiece has them. `legacy` puts the
    blank before every run of text; otherwise only at the very start.
    """
    names = [token if isinstance(token, str) else token.content for token in special]
    letters = sorted({"▁", *"".join(TEXT).replace(" ", "▁")})
    base = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    base.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if not legacy else "always"
    )
    trainer = trainers.BpeTrainer(
        vocab_size=len(names) + 256 + 200,
        special_tokens=[*names, *(f"<0x{i:02X}>" for i in range(256))],
        initial_alphabet=letters,
        show_progress=False,
    )
    base.train_from_iterator(TEXT, trainer)
    spec = base.model
    made = Tokenizer(spec)
    if legacy:
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    made.add_special_tokens(
        [AddedToken(t, normalized=False) if isinstance(t, str) else t for t in special]
    )
    return made


def unigram(special: list[str]) -> Tokenizer:
    """Unigram with ▁ before every word; its special tokens stand in the lattice's vocabulary."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=special,
        unk_token="<unk>",
        initial_alphabet=sorted({"▁", *"".join(TEXT)}),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    return made


def word_level(special: list[str]) -> Tokenizer:
    """Whole words between blanks; everything else is unknown."""
    made = Tokenizer(models.WordLevel(unk_token=special[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(
        TEXT, trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    )
    return made


SENTENCEPIECE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A tokenizer with its template, and what is peculiar to it."""

    name: str
    chat: Chat
    special: tuple[str, ...]
    has_system: bool = True
    alternates: bool = False
    trims: bool = False
    words_only: bool = False


def fast(backend: Tokenizer, **names: Any) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **names
    )


def _chatml() -> Family:
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend = byte_level(list(names))
    backend.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>")])
    backend.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    made = fast(backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return Family(name="chatml", chat=Chat(made, CHATML), special=names)


def _llama2() -> Family:
    names = ("<unk>", "<s>", "</s>")
    made = fast(sentencepiece_bpe(list(names), legacy=True), **SENTENCEPIECE)
    chat = Chat(made, LLAMA2)
    return Family(name="llama2", chat=chat, special=names[1:], alternates=True, trims=True)


def _unigram_inst() -> Family:
    names = ("<unk>", "<s>", "</s>")
    made = fast(unigram(list(names)), **SENTENCEPIECE)
    chat = Chat(made, LLAMA2)
    return Family(name="unigram", chat=chat, special=names[1:], alternates=True, trims=True)


def _llama3() -> Family:
    first = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    names = (*first, "<|eot_id|>", *(f"<|reserved_special_token_{i}|>" for i in range(40)))
    made = fast(byte_level(list(names)), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    return Family(name="llama3", chat=Chat(made, LLAMA3), special=names, trims=True)


def _gemma() -> Family:
    names = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    made = fast(
        sentencepiece_bpe(list(names), legacy=False),
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    special = tuple(n for n in names if n != "<unk>")
    return Family(
        name="gemma", chat=Chat(made, GEMMA), special=special, has_system=False, trims=True
    )


def _mistral() -> Family:
    names = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    made = fast(sentencepiece_bpe(list(names), legacy=True), **SENTENCEPIECE)
    return Family(name="mistral", chat=Chat(made, MISTRAL), special=names[1:], alternates=True)


def _phi3() -> Family:
    plain = ["<unk>", "<s>", "</s>", "<|endoftext|>"]
    turns = ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|tool|>"]
    tokens = [*plain, *(AddedToken(t, rstrip=True, normalized=False) for t in turns)]
    made = fast(
        sentencepiece_bpe(tokens, legacy=True),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|endoftext|>",
    )
    return Family(name="phi3", chat=Chat(made, PHI3), special=(*plain[1:], *turns))


def _zephyr() -> Family:
    names = ("<unk>", "<s>", "</s>")
    made = fast(sentencepiece_bpe(list(names), legacy=True), **SENTENCEPIECE)
    return Family(name="zephyr", chat=Chat(made, ZEPHYR), special=names[1:])


def _gpt2() -> Family:
    names = ("<|endoftext|>",)
    made = fast(byte_level(list(names)), bos_token=names[0], eos_token=names[0], unk_token=names[0])
    return Family(name="gpt2", chat=Chat(made, FALLBACK), special=names)


def _words() -> Family:
    made = fast(
        word_level(list(COMPACT_TOKENS)),
        unk_token="<|unk|>",
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(COMPACT_TOKENS[3:]),
    )
    special = COMPACT_TOKENS[1:]
    return Family(name="words", chat=Chat(made, COMPACT), special=special, words_only=True)


FAMILIES: dict[str, Callable[[], Family]] = {
    "chatml": cache(_chatml),
    "llama2": cache(_llama2),
    "unigram": cache(_unigram_inst),
    "llama3": cache(_llama3),
    "gemma": cache(_gemma),
    "mistral": cache(_mistral),
    "phi3": cache(_phi3),
    "zephyr": cache(_zephyr),
    "gpt2": cache(_gpt2),
    "words": cache(_words),
}


@pytest.fixture(scope="session")
def family() -> Callable[[str], Family]:
    """Give a family by name."""
    return lambda name: FAMILIES[name]()


@pytest.fixture(params=sorted(FAMILIES))
def each_family(request: pytest.FixtureRequest) -> Family:
    """One family after the other."""
    return FAMILIES[request.param]()
