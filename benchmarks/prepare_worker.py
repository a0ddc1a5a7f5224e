"""Measure how long rows take from a file to token ids, and print it as one line of JSON.

python -m benchmarks.prepare_worker --side ours --rows 1000 --data pairs.jsonl
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.config import add_flags, from_flags
from benchmarks.machine import Load, peak_mb, process_age_s
from benchmarks.results import one_line
from benchmarks.worker import NO_NETWORK
from preftune.errors import PreftuneError


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """How many rows, by whom."""

    side: Literal["trl", "ours"]
    rows: int = 1000
    processes: int = 1  # TRL's dataset_num_proc
    kept: bool = False  # our side finds the ids that an earlier run kept

    @property
    def label(self) -> str:
        """Name of the configuration."""
        kept = "-kept" if self.kept else ""
        return f"{self.side}-prepare-{self.rows}-p{self.processes}{kept}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareResult:
    """What it took."""

    config: PrepareConfig
    prepare_s: float  # from the file to ids, model and libraries loaded before
    start_s: float  # from the start of the process to ids, all included
    peak_mb: float  # of the process itself; TRL's own workers are not counted
    foreign_cores: float


def ours(model: Path, file: Path) -> float:
    """Return the seconds our side takes for a file."""
    from preftune.engine.batches import Order
    from preftune.engine.settings import OptimizerSettings
    from preftune.models.chat import load_chat
    from preftune.training.rows import stream_lengths
    from preftune.training.tokenise import read_pair_rows

    chat = load_chat(model)
    began = time.perf_counter()
    rows = read_pair_rows(file, chat)
    Order.of_lengths(stream_lengths(rows), OptimizerSettings(), seed=0)
    rows.digest()  # the name of the reference's log-probs
    return time.perf_counter() - began


def keep_tokens(folder: Path) -> None:
    """Let this process keep token ids in a folder; an empty one is filled by a run before."""
    os.environ["PREFTUNE_CACHE"] = str(folder)
    if not folder.exists():
        folder.mkdir()
        again = [sys.executable, "-m", "benchmarks.prepare_worker", *sys.argv[1:]]
        subprocess.run(again, check=True, stdout=subprocess.DEVNULL)


def trl(model: Path, file: Path, processes: int) -> float:
    """Return the seconds TRL's own preparation takes for a file, without its cache.

    A trainer over one row is made first, so that nothing but rows is timed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from benchmarks.data import MAX_LENGTH
    from benchmarks.trl_side import LORA
    from datasets import Dataset, load_dataset

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = AutoTokenizer.from_pretrained(str(model))
        settings = DPOConfig(
            output_dir=scratch,
            use_cpu=True,
            report_to="none",
            max_length=MAX_LENGTH,
            dataset_num_proc=processes if processes > 1 else None,
        )
        turn = [{"role": "user", "content": "a"}]
        one = {"prompt": turn, "chosen": turn, "rejected": turn}
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(str(model)),
            args=settings,
            train_dataset=Dataset.from_list([one]),
            processing_class=tokenizer,
            peft_config=LORA,
        )
        began = time.perf_counter()
        rows = load_dataset("json", data_files=str(file), split="train", cache_dir=scratch)
        trainer._prepare_dataset(rows, tokenizer, settings, "train")
        return time.perf_counter() - began


def rows_file(rows: int, data: Path, cache: Path) -> tuple[Path, Path]:
    """Return the folder of model S and a file of that many pairs, made where they are missing.

    The pairs of `data` are repeated with a running number in the prompt.
    """
    from benchmarks.data import texts_of, usable_pairs
    from benchmarks.models import make_model
    from preftune.datasets.write import write_records
    from preftune.types import PreferencePair, make_prompt, user

    model, file = cache / "S", cache / f"rows-{rows}.jsonl"
    if model.is_dir() and file.exists():
        return model, file
    pairs = usable_pairs(data)
    make_model("S", texts_of(pairs), model)

    def numbered(number: int) -> PreferencePair:
        pair = pairs[number % len(pairs)]
        first, *rest = pair.prompt.messages
        return PreferencePair(
            id=str(number),
            prompt=make_prompt(user(f"{number}: {first.content}"), *rest),
            chosen=pair.chosen,
            rejected=pair.rejected,
        )

    write_records(file, (numbered(number) for number in range(rows)), format="trl")
    return model, file


def main() -> None:
    """Measure what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, PrepareConfig)
    parser.add_argument("--data", type=Path, required=True, help="pairs to repeat")
    parser.add_argument("--cache", type=Path, required=True, help="folder of models and rows")
    arguments = parser.parse_args()
    os.environ.update(NO_NETWORK, PREFTUNE_CACHE="off")
    try:
        config = from_flags(arguments, PrepareConfig)
        model, file = rows_file(config.rows, arguments.data, arguments.cache)
        if config.kept:
            keep_tokens(arguments.cache / f"kept-{config.rows}")
        load = Load()
        if config.side == "ours":
            prepare_s = ours(model, file)
        else:
            prepare_s = trl(model, file, config.processes)
    except PreftuneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    result = PrepareResult(
        config=config,
        prepare_s=prepare_s,
        start_s=process_age_s(),
        peak_mb=peak_mb(),
        foreign_cores=load.foreign_cores(),
    )
    print(one_line(result))


if __name__ == "__main__":
    main()
