"""Ids of one model are another's only where tokenizer and template are the same."""

from pathlib import Path

from preftune.models.chat import Chat, load_chat
from preftune.models.new import new_model
from preftune.models.same_tokens import same_tokens

TEXTS = ["wash it ?", "yes , wash it ."]


def made(folder: Path, *, texts: list[str] | None = None, preset: str = "tiny") -> Chat:
    new_model(folder, preset=preset, texts=texts or TEXTS, vocab_size=64, seed=0, tokenizer="words")
    return load_chat(folder)


def test_equal_tokenizers_and_templates_share_ids(tmp_path: Path) -> None:
    assert same_tokens(made(tmp_path / "a"), made(tmp_path / "b")) == ""


def test_what_differs_is_named(tmp_path: Path) -> None:
    ours = made(tmp_path / "ours")
    other = made(tmp_path / "other", texts=["dry it ?", "no , iron the cat ."])
    encoder = made(tmp_path / "encoder", preset="encoder")
    assert "different vocabularies: " in same_tokens(ours, other)
    assert "decoder's and" in same_tokens(ours, encoder)
    assert "templates" in same_tokens(
        ours, load_chat(tmp_path / "ours", template="{{ 'x' }}" + ours.template)
    )
    clock = load_chat(
        tmp_path / "ours",
        template=ours.template + "{% if false %}{{ strftime_now('%Y') }}{% endif %}",
    )
    assert "writes other text at other times" in same_tokens(ours, clock)
