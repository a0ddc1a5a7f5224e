"""The first third of the demo: a model learns the desk's facts, from nothing, in mixed tone."""

import hashlib
from pathlib import Path

import torch

from preftune import __version__
from preftune.datasets import dataset_hash, write_records
from preftune.demo.settings import DemoSettings, cache_folder
from preftune.demo.world import CareDesk
from preftune.engine.settings import OptimizerSettings
from preftune.models.new import new_model
from preftune.settings import write_yaml
from preftune.training import sft
from preftune.training.settings import RunSettings, SftSettings
from preftune.types import Demonstration

ROWS = 20_000
PRESET, VOCAB_SIZE = "tiny", 300  # 0.6M weights; a word-level vocabulary of the desk's language
OPTIMIZER = OptimizerSettings(lr=4e-3, adam_beta2=0.95, batch_size=16, epochs=2.0)


def teach(world: CareDesk, s: DemoSettings) -> Path:
    """Return the folder of the SFT model, from the cache when it was made of the same before.

    The cache is keyed by the content of the rows, the words, and all settings. An interrupted
    training goes on where it stopped.
    """
    rows = world.sft_rows(ROWS // 10 if s.quick else ROWS, seed=0)
    folder = s.out / "teaching" if s.fresh else cache_folder() / _key(rows, world.texts())
    settings = SftSettings(
        model=str(folder / "base"),
        data=folder / "sft.jsonl",
        optimizer=OPTIMIZER,
        run=RunSettings(out=folder / "sft", threads=s.threads),
    )
    if not (folder / "base").exists():
        new_model(
            folder / "base",
            preset=PRESET,
            texts=world.texts(),
            vocab_size=VOCAB_SIZE,
            seed=0,
            tokenizer="words",
        )
    write_records(settings.data, rows, format="preftune")
    return sft.train(settings)


def _key(rows: list[Demonstration], texts: list[str]) -> str:
    made_of = (
        dataset_hash(rows),
        *texts,
        PRESET,
        str(VOCAB_SIZE),
        write_yaml(OPTIMIZER),
        __version__,
        str(torch.__version__),
    )
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
