"""The pairs both sides train on, written once per model so that neither side pays for choosing."""

from pathlib import Path

from benchmarks.config import RunConfig
from benchmarks.models import make_model
from preftune.datasets.read import read_records
from preftune.datasets.write import write_records
from preftune.engine.batches import epoch_batches
from preftune.errors import DataError
from preftune.models.chat import Chat, load_chat
from preftune.types import PreferencePair, assistant, make_prompt, text_of, user

MAX_LENGTH = 512  # tokens of prompt + response


def workload(config: RunConfig, data: Path, cache: Path) -> tuple[Path, Path]:
    """Return the folder of the model and the file of its pairs, made where they are missing.

    Args:
        config: names the model and the pairs.
        data: hh-harmless, or any other file of pairs, that pairs are drawn from.
        cache: folder that both are kept in.
    """
    model = cache / config.model
    name = f"length-{config.length}" if config.length else f"stratified-{config.pairs}"
    file = cache / f"{config.model}-{name}.jsonl"
    if model.is_dir() and file.exists():
        return model, file
    found = usable_pairs(data)
    texts = texts_of(found)
    chat = load_chat(make_model(config.model, texts, model))
    if config.length:
        drawn = [long_pair(texts, chat, length=config.length)]
    else:
        drawn = stratified(found, chat, count=config.pairs, batch=config.pairs_per_step)
    write_records(file, drawn)
    return model, file


def usable_pairs(file: Path) -> list[PreferencePair]:
    """Return the pairs of a file that can be used; hh-harmless has a few broken rows."""
    found = read_records(file, on_bad="skip").records
    return [record for record in found if isinstance(record, PreferencePair)]


def texts_of(pairs: list[PreferencePair]) -> list[str]:
    """Return every text of the pairs once, in their order."""
    parts = [
        part
        for pair in pairs
        for part in (text_of(pair.prompt.messages), text_of(pair.chosen), text_of(pair.rejected))
    ]
    return list(dict.fromkeys(parts))


def stratified(
    pairs: list[PreferencePair], chat: Chat, *, count: int, batch: int
) -> list[PreferencePair]:
    """Return `count` pairs spread evenly over the lengths up to 512 tokens, batches of like length.

    Nothing has to be cut or dropped by either side. Rows that follow each other in steps of
    `batch` make up a step.

    Raises:
        DataError: fewer than `count` pairs are short enough.
    """
    lengths = [length_tokens(pair, chat) for pair in pairs]
    fitting = sorted(
        (i for i, length in enumerate(lengths) if length <= MAX_LENGTH), key=lengths.__getitem__
    )
    if len(fitting) < count:
        raise DataError(
            f"{len(fitting)} pairs of at most {MAX_LENGTH} tokens, {count} are wanted. "
            "Give a larger file."
        )
    spread = [fitting[int((place + 0.5) * len(fitting) / count)] for place in range(count)]
    batches = epoch_batches([lengths[i] for i in spread], batch, seed=0, epoch=0)
    return [pairs[spread[row]] for rows in batches for row in rows]


def length_tokens(pair: PreferencePair, chat: Chat) -> int:
    """Return the tokens of the longer of prompt + chosen and prompt + rejected."""
    return max(len(chat.encode(pair.prompt, answer)) for answer in (pair.chosen, pair.rejected))


def long_pair(texts: list[str], chat: Chat, *, length: int) -> PreferencePair:
    """Return a pair whose two sequences have `length` tokens or up to four fewer each.

    Half of them are the prompt. The texts are put one behind the other and cut between words.
    """
    half = length // 2 - 4  # control tokens: the turns' marks and ends
    words = " ".join(texts).split(" ")
    prompt, rest = _words_of(words, chat, tokens=half)
    first, rest = _words_of(rest, chat, tokens=half)
    second, _ = _words_of(rest, chat, tokens=half)
    return PreferencePair(
        id=f"long-{length}",
        prompt=make_prompt(user(prompt)),
        chosen=(assistant(first),),
        rejected=(assistant(second),),
    )


def _words_of(words: list[str], chat: Chat, *, tokens: int) -> tuple[str, list[str]]:
    """Return the most words from the front that are at most `tokens` tokens, and the rest."""
    low, high = 1, min(len(words), tokens)  # no word is shorter than a token
    while low < high:
        middle = (low + high + 1) // 2
        ids = chat.tokenizer(" ".join(words[:middle]), add_special_tokens=False)["input_ids"]
        low, high = (middle, high) if len(ids) <= tokens else (low, middle - 1)
    return " ".join(words[:low]), words[low:]
