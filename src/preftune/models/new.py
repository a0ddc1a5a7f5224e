"""Make a small model from nothing, with a tokenizer trained on given text: no download needed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from preftune.errors import ModelError, SettingsError
from preftune.files import atomic_folder
from preftune.models.load import save_weights
from preftune.models.presets import PRESETS, Preset, model_config
from preftune.models.templates import COMPACT, COMPACT_TOKENS

BYTES = 256
ENCODER_TOKENS = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")


def new_model(
    out: Path | str,
    *,
    preset: str,
    texts: Iterable[str],
    vocab_size: int,
    seed: int,
    tokenizer: str,
) -> Path:
    """Write a model folder with random weights and a tokenizer trained on the texts.

    The same arguments give the same bytes. A decoder gets the compact chat template.

    Args:
        out: folder to make; must not exist with anything in it.
        preset: a name of `PRESETS`.
        texts: what the tokenizer learns its pieces from.
        vocab_size: at most this many tokens, the special ones included.
        seed: of the random weights.
        tokenizer: "bpe" spells any text from bytes; "words" knows whole words between blanks and
            turns every other word into `<|unk|>`.

    Raises:
        SettingsError: an unknown preset or tokenizer, or too small a vocabulary.
        ModelError: `out` is not empty, or the texts hold no words.
    """
    if preset not in PRESETS:
        raise SettingsError(f"preset: {preset!r} is unknown. Known: {', '.join(PRESETS)}.")
    size = PRESETS[preset]
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: is there already. Give a new folder.")
    trained = train_tokenizer(texts, preset=size, kind=tokenizer, vocab_size=vocab_size)
    model = _fresh(size, trained, seed=seed)
    with atomic_folder(folder) as temporary:
        save_weights(model, temporary)
        trained.save_pretrained(str(temporary))
    return folder


def train_tokenizer(texts: Iterable[str], *, preset: Preset, kind: str, vocab_size: int) -> Any:
    """Return a tokenizer for the preset, trained on the texts, special tokens and template set."""
    from transformers import PreTrainedTokenizerFast

    special = COMPACT_TOKENS if preset.kind == "decoder" else ENCODER_TOKENS
    smallest = len(special) + (BYTES if kind == "bpe" else 1)
    if vocab_size < smallest:
        raise SettingsError(f"vocab_size: {vocab_size} is too small. Give at least {smallest}.")
    backend, trainer = _parts(kind, list(special), vocab_size)
    backend.train_from_iterator(texts, trainer)
    if kind == "words" and backend.get_vocab_size() == len(special):
        raise ModelError("texts: no word in them. Give text to learn words from.")
    unk, pad = special[0], special[1]
    if preset.kind == "decoder":
        names = {"eos_token": "<|end|>", "additional_special_tokens": list(special[3:])}
    else:
        _arrange_pairs(backend)
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unk,
        pad_token=pad,
        model_max_length=preset.max_length,
        clean_up_tokenization_spaces=False,
        **names,
    )
    if preset.kind == "decoder":
        made.chat_template = COMPACT
    return made


def _parts(kind: str, special: list[str], vocab_size: int) -> tuple[Any, Any]:
    """Return an untrained tokenizer and its trainer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if kind == "words":
        words = Tokenizer(models.WordLevel(unk_token=special[0]))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return words, trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    if kind != "bpe":
        raise SettingsError(f"tokenizer: {kind!r} is unknown. Known: bpe, words.")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    return pieces, trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _arrange_pairs(backend: Any) -> None:
    from tokenizers import processors

    ends = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )


def _fresh(preset: Preset, tokenizer: Any, *, seed: int) -> Any:
    """Return the model with random weights; the caller's random state is left alone."""
    import torch
    from transformers import BertModel, LlamaForCausalLM

    config = model_config(
        preset,
        vocab_size=len(tokenizer),
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if preset.kind == "encoder":
            return BertModel(config, add_pooling_layer=False)
        return LlamaForCausalLM(config)
