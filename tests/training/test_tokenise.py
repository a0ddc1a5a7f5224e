"""Rows of a file: equal to those in memory, kept until anything they depend on changes."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tests.training.conftest import demonstrations, pairs

from preftune.datasets import dataset_hash, read_pairs, write_records
from preftune.engine.settings import OptimizerSettings
from preftune.errors import DataError, RowError
from preftune.models.chat import Chat, load_chat
from preftune.records import decode
from preftune.training import direct
from preftune.training.facts import said_of_pair
from preftune.training.rows import fit_length, stream_lengths
from preftune.training.settings import DirectSettings, LengthSettings, RunSettings
from preftune.training.token_cache import FILES
from preftune.training.tokenise import (
    KEPT_FROM,
    demonstration_rows,
    pair_rows,
    read_demonstration_rows,
    read_pair_rows,
)
from preftune.types import PreferencePair, assistant, make_prompt, user

MANY = 400  # pairs with a long reason: enough for a file that is kept


def many_pairs() -> list[PreferencePair]:
    return [
        PreferencePair(
            id=f"pair {number}",
            prompt=make_prompt(user(f"can i wash my {'very ' * (number % 7)}red bear ?")),
            chosen=(assistant("thank you . yes you can wash it ."),),
            rejected=(assistant("yes obviously"),),
            strength=None if number % 5 == 4 else number % 5 % 4,
            probability=0.5 + number % 3 / 10,
            weight=1 + number % 2,
            why="x" * 3000,
        )
        for number in range(MANY)
    ]


@pytest.fixture(scope="module")
def chat(world: Path) -> Chat:
    return load_chat(world / "base")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "pairs.jsonl"
    write_records(path, many_pairs(), format="preftune")
    assert path.stat().st_size > KEPT_FROM
    return path


@pytest.fixture
def many(original: Path, tmp_path: Path) -> Path:
    """A file of many pairs, for a test to harm."""
    shutil.copy(original, tmp_path / "pairs.jsonl")
    return tmp_path / "pairs.jsonl"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def entries(cache: Path) -> dict[str, int]:
    """Each entry, and when its first file was made."""
    return {entry.name: (entry / next(iter(FILES))).stat().st_mtime_ns for entry in cache.iterdir()}


def test_rows_of_a_file_are_those_of_its_records_first_and_later(
    many: Path, chat: Chat, cache: Path
) -> None:
    wanted = pair_rows(many_pairs(), chat)
    first = read_pair_rows(many, chat)
    made = entries(cache)
    again = read_pair_rows(many, chat)
    assert len(made) == 1
    assert entries(cache) == made
    assert list(first) == list(again) == list(wanted)
    assert first.data_hash == again.data_hash == dataset_hash(read_pairs(many))
    assert first.facts.tolist() == again.facts.tolist() == wanted.facts.tolist()
    assert first.digest() == again.digest() == wanted.digest()
    assert stream_lengths(again) == [
        len(row.chosen.prompt_ids) + len(row.chosen.response_ids) + len(row.rejected.response_ids)
        for row in wanted
    ]


def test_facts_are_what_the_pair_says(chat: Chat) -> None:
    (row,) = pair_rows([dataclasses.replace(many_pairs()[3], chosen=(assistant("yes"),))], chat)
    said = said_of_pair(many_pairs()[4])
    assert (row.strength, row.probability, row.weight) == (3, 0.5, 2.0)
    assert tuple(said) == (1.0, 0.6, -1, 1, 1)  # no strength; chosen is longer; one turn


def test_later_runs_do_not_read_the_records(many: Path, chat: Chat) -> None:
    rows = read_pair_rows(many, chat)
    again = read_pair_rows(many, chat)
    many.write_text("no record at all\n")  # what is asked of the rows comes from the kept arrays
    assert list(again[:3]) == list(rows[:3])
    with pytest.raises(DataError, match=r"pairs\.jsonl: was changed while it was in use"):
        list(again.records)


def test_a_changed_byte_in_the_file_is_another_entry(many: Path, chat: Chat, cache: Path) -> None:
    read_pair_rows(many, chat)
    many.write_bytes(many.read_bytes().replace(b"red bear", b"fed bear", 1))
    changed = read_pair_rows(many, chat)
    assert changed[0] != pair_rows(many_pairs()[:1], chat)[0]
    assert len(entries(cache)) == 2


def test_another_template_is_another_entry(many: Path, chat: Chat, cache: Path) -> None:
    read_pair_rows(many, chat)
    spaced = Chat(chat.tokenizer, chat.template.replace("<|end|>", "<|end|> "))
    read_pair_rows(many, spaced)
    assert len(entries(cache)) == 2


def test_another_length_is_another_choice_from_the_same_entry(
    many: Path, chat: Chat, cache: Path, tmp_path: Path
) -> None:
    rows = read_pair_rows(many, chat)
    longest = int(rows.lengths.max())
    for limit in (longest, longest - 1):
        dropping = LengthSettings(max_length=limit, on_long="drop")
        dropped = tmp_path / f"{limit}.jsonl"
        again = read_pair_rows(many, chat)
        kept = fit_length(again, settings=dropping, model_limit=1000, dropped=dropped)
        short = [row for row in rows if max(map(len, row.sequences)) <= limit]
        assert list(kept) == short
        assert dropped.exists() == (limit < longest)
    written = [decode(line) for line in dropped.read_bytes().splitlines()]
    assert written == [pair for number, pair in enumerate(many_pairs()) if number % 7 == 6]
    assert len(entries(cache)) == 1


def test_a_broken_entry_is_named_and_made_again(many: Path, chat: Chat, cache: Path) -> None:
    first = read_pair_rows(many, chat).facts.tolist()
    (entry,) = cache.iterdir()
    content = bytearray((entry / "facts.bin").read_bytes())
    content[7] ^= 1
    (entry / "facts.bin").write_bytes(content)
    again = read_pair_rows(many, chat)
    assert again.facts.tolist() == first
    assert again.notes[-1].endswith("was damaged, tokenised again")
    assert read_pair_rows(many, chat).notes == ()


def test_a_small_file_is_not_kept(world: Path, chat: Chat, cache: Path) -> None:
    rows = read_pair_rows(world / "pairs.jsonl", chat)
    assert list(rows) == list(pair_rows(pairs()[:24], chat))
    assert not cache.exists()


def test_demonstrations_of_a_file_are_those_of_its_records(world: Path, chat: Chat) -> None:
    wanted = demonstration_rows(demonstrations(), chat, train_on="last")
    rows = read_demonstration_rows(world / "sft.jsonl", chat, train_on="last")
    assert list(rows) == list(wanted)


def test_a_bad_row_of_a_long_file_is_named(many: Path, chat: Chat, cache: Path) -> None:
    with many.open("a") as file:
        file.write('{"type": "pair"}\n')
    with pytest.raises(RowError, match=rf"pairs\.jsonl:{MANY + 1}: "):
        read_pair_rows(many, chat)
    assert not list(cache.iterdir())


def test_records_of_another_kind_in_a_long_file_are_named(
    many: Path, chat: Chat, world: Path
) -> None:
    with many.open("a") as file:
        file.write((world / "sft.jsonl").read_text())
    with pytest.raises(DataError, match="holds demonstrations, not pairs"):
        read_pair_rows(many, chat)


def test_same_run_with_and_without_kept_tokens(
    many: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> list[object]:
        out = tmp_path / name
        final = direct.train(
            DirectSettings(
                model=str(world / "base"),
                data=many,
                run=RunSettings(out=out),
                optimizer=OptimizerSettings(batch_size=4, epochs=0.03),
            )
        )
        about = json.loads((out / "run.json").read_text())["inputs"]
        weights = (final / "model.safetensors").read_bytes()
        return [(out / "metrics.jsonl").read_bytes(), weights, about]

    first = run("first")
    assert run("kept") == first
    monkeypatch.setenv("PREFTUNE_CACHE", "off")
    assert run("off") == first
