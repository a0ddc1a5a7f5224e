"""Many rows at once give the ids that one row gives, whatever its words, turns and tokenizer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from preftune.errors import DataError, ModelError
from preftune.models.chat import Chat
from preftune.models.plain import PlainText, Run, starts_anew_at_blanks
from preftune.types import Message, Prompt, ToolCall, assistant, make_prompt, user

if TYPE_CHECKING:
    from tests.models.conftest import Family

    Families = Callable[[str], Family]

Row = tuple[Prompt, tuple[Message, ...]]

TEXT = [
    "The quick brown fox (says hello) to 3 lazy dogs, doesn't it? \n\nYes: it's 12 500 !\n  x",
    "Привет, мир и собака. ∑ x² 你好 世界 naïve café",
]
PIECES = ["a", "hello", " ", "  ", "\n", " \n ", "don't", "12", "é", "e\u0301", "你好", "▁", "x▁"]
PIECES += [
    "<|im_end|>",
    "</s>",
    "<think>",
    "<unk>",
    "<UNK>",
    "\u00a0",
    "\u037a",
    "\ufdfa",
    "İ",
    "!",
    "/",
    "\t",
    "🙂",
]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def rows(of: "Family") -> list[Row]:
    """Return rows of every kind that the family's template takes."""
    system = Message(role="system", content="the quick brown")
    talk = (user("the lazy"), assistant("dog and"), user("says hello to"))
    quiet = Message(role="assistant", content="hello", weight=0)
    found: list[Row] = [
        (make_prompt(user("hello to the world.")), (assistant("the lazy dog"),)),
        (make_prompt(user("another one with more words")), (assistant("jumps over"),)),
        (make_prompt(*talk), (assistant("the world."),)),
        (make_prompt(*talk), (assistant("says"), user("hello to"), assistant("the dog"))),
        (make_prompt(*talk), (quiet, user("hello to"), assistant("the dog"))),
        (make_prompt(user(" blank at the ends\n")), (assistant("\nhello "),)),
        (make_prompt(user("hello")), (assistant(""),)),
    ]
    found += [(make_prompt(user(f"a {t} b")), (assistant(f"{t}"),)) for t in of.special]
    found += [(make_prompt(user(f"a {t[:-1]}")), (assistant(f"b {t[:2]}"),)) for t in of.special]
    if of.has_system:
        found.append((make_prompt(system, user("fox jumps")), (assistant("over"),)))
        found.append((make_prompt(system, *talk), (assistant("over"),)))
    if not of.alternates:
        call = Message(
            role="assistant", content="", tool_calls=(ToolCall(name="f", arguments='{"x": 1}'),)
        )
        answer = Message(role="tool", content="30 degrees", tool_call_id="1")
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        found.append((make_prompt(user("bear?"), tools=(tool,)), (assistant("wash it"),)))
        found.append((make_prompt(user("bear?")), (call, answer, assistant("wash it at 30"))))
    return found


def test_all_rows_at_once_equal_each_alone(each_family: "Family") -> None:
    chat, asked = each_family.chat, rows(each_family)
    alone = [chat.encode(prompt, response) for prompt, response in asked]
    assert chat.encode_all(asked) == alone
    assert chat.encode_all(asked[::-1]) == alone[::-1]


def test_rows_that_share_a_prompt_equal_each_alone(each_family: "Family") -> None:
    chat = each_family.chat
    doubled = [
        (prompt, side) for prompt, response in rows(each_family) for side in (response, response)
    ]
    assert chat.encode_all(doubled) == [chat.encode(prompt, side) for prompt, side in doubled]


def test_all_turns_at_once_equal_each_row_alone(each_family: "Family") -> None:
    chat, asked = each_family.chat, rows(each_family)
    alone = [chat.encode(prompt, response, train_on="all") for prompt, response in asked]
    assert chat.encode_all(asked, train_on="all") == alone


def test_no_rows_give_no_sequences(each_family: "Family") -> None:
    assert each_family.chat.encode_all([]) == []


@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3", "gemma", "phi3", "zephyr", "gpt2"])
def test_any_words_at_once_equal_each_row_alone(family: "Families", name: str) -> None:
    chat = family(name).chat

    @settings(max_examples=60)
    @given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4))
    def same(drawn: list[tuple[str, str, str]]) -> None:
        asked = []
        for question, chosen, rejected in drawn:
            prompt = make_prompt(user(question))
            asked += [(prompt, (assistant(chosen),)), (prompt, (assistant(rejected),))]
        assert chat.encode_all(asked) == [chat.encode(prompt, side) for prompt, side in asked]

    same()


def test_words_remembered_give_the_ids_of_the_whole_text(each_family: "Family") -> None:
    """The other implementation is the tokenizer itself on the whole run, never cut."""
    plain = PlainText(each_family.chat.tokenizer, each_family.chat._finder.tokens)

    @settings(max_examples=150)
    @given(st.lists(texts.filter(bool), min_size=1, max_size=4))
    def same(drawn: list[str]) -> None:
        for follows in ("start", "text", "control"):
            runs = [Run(text=text, follows=follows) for text in drawn]
            whole = [list(plain.encode(text, follows).ids) for text in drawn]
            assert plain.encode_all(runs) == whole
            assert plain.encode_all(runs) == whole  # now all words are known

    same()


class Bare:
    """As much of a transformers tokenizer as `PlainText` looks at."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend

    def get_vocab(self) -> dict[str, int]:
        vocab: dict[str, int] = self.backend_tokenizer.get_vocab()
        return vocab


def bpe(normalizer: Any, cutter: Any) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizer, cutter
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>"],
        initial_alphabet=sorted({"▁", *pre_tokenizers.ByteLevel.alphabet(), *"".join(TEXT)}),
        show_progress=False,
    )
    made.train_from_iterator(TEXT * 3, trainer)
    return made


def byte_level(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tail = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, tail])


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made


BACKENDS: dict[str, tuple[Callable[[], Tokenizer], bool]] = {
    "gpt-2": (lambda: bpe(None, pre_tokenizers.ByteLevel(add_prefix_space=False)), True),
    "roberta": (lambda: bpe(None, pre_tokenizers.ByteLevel(add_prefix_space=True)), True),
    "llama-3": (lambda: bpe(None, byte_level(LLAMA3)), True),
    "qwen": (lambda: bpe(normalizers.NFC(), byte_level(LLAMA3.replace("{1,3}", ""))), True),
    "nfkc": (lambda: bpe(normalizers.NFKC(), byte_level(GPT2)), True),
    "digits": (
        lambda: bpe(
            None,
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
        ),
        True,
    ),
    "metaspace": (lambda: bpe(None, pre_tokenizers.Metaspace()), True),
    "metaspace in one": (lambda: bpe(None, pre_tokenizers.Metaspace(split=False)), False),
    "bert": (wordpiece, True),
    "no cuts": (lambda: bpe(None, byte_level(r"\w+ \w+|\s+|\S+")), False),
    "strips": (lambda: bpe(normalizers.Strip(), byte_level(GPT2)), False),
    "lines": (lambda: bpe(None, pre_tokenizers.CharDelimiterSplit("\n")), False),
}


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_tokenizer_that_starts_anew_at_blanks_is_known(name: str) -> None:
    make, cuts = BACKENDS[name]
    plain = PlainText(Bare(make()), ())
    assert starts_anew_at_blanks(plain._spec, adds_prefix=plain.adds_prefix) is cuts


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_words_give_the_whole_text_under_any_tokenizer(name: str) -> None:
    plain = PlainText(Bare(BACKENDS[name][0]()), ())

    @settings(max_examples=150)
    @given(st.lists(texts.filter(bool), min_size=1, max_size=3))
    def same(drawn: list[str]) -> None:
        for follows in ("start", "text", "control"):
            runs = [Run(text=text, follows=follows) for text in drawn]
            assert plain.encode_all(runs) == [list(plain.encode(t, follows).ids) for t in drawn]

    same()


def test_error_of_a_row_is_that_of_the_row_alone(family: "Families") -> None:
    good = (make_prompt(user("a")), (assistant("b"),))
    with pytest.raises(DataError, match="Start and end it with an assistant turn"):
        family("chatml").chat.encode_all([good, (make_prompt(user("a")), (user("b"),))])
    system = make_prompt(Message(role="system", content="a"), user("b"))
    for _ in range(2):
        with pytest.raises(ModelError, match="System role not supported"):
            family("gemma").chat.encode_all([good, (system, (assistant("b"),))])


def test_text_before_a_content_that_could_make_a_token_is_rendered(family: "Families") -> None:
    """`<|im_` of the template and `end|>` of a user make a token: as it ever was."""
    template = (
        "{% for m in messages %}<|im_{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>"
        "{% endif %}{% endfor %}"
    )
    chat = Chat(family("chatml").chat.tokenizer, template)
    asked = [
        (make_prompt(user("x")), (assistant("y"),)),
        (make_prompt(user("end|>")), (assistant("y"),)),
    ]
    assert chat.encode_all(asked) == [chat.encode(prompt, side) for prompt, side in asked]
