"""A real `preftune serve` with a model made on the spot, and rows to send it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from preftune.models.load import save_weights
from preftune.models.new import train_tokenizer
from preftune.models.presets import Preset, model_config

SMALL = Preset(kind="decoder", width=16, layers=2, heads=2, feed_forward=32, max_length=512)
ROWS = 12


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that answers."""

    url: str  # with /v1
    key: str


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def question(number: int) -> dict[str, str]:
    return turn("user", f"what is the answer to {number}")


def sft_row(number: int) -> dict[str, Any]:
    return {"messages": [question(number), turn("assistant", f"the answer is {number}")]}


def dpo_row(number: int) -> dict[str, Any]:
    return {
        "input": {"messages": [question(number)]},
        "preferred_output": [turn("assistant", f"yes, the answer is {number}")],
        "non_preferred_output": [turn("assistant", "no")],
    }


def rft_row(number: int) -> dict[str, Any]:
    """A letter that a model that writes at random hits now and then."""
    return {"messages": [question(number)], "answer": "e"}


def write_rows(folder: Path) -> None:
    """Write the files of rows that the tour uploads."""
    made = {"sft": sft_row, "dpo": dpo_row, "dpo_validation": dpo_row, "rft": rft_row}
    for name, row in made.items():
        first = ROWS if name == "dpo_validation" else 0
        lines = [json.dumps(row(number)) + "\n" for number in range(first, first + ROWS)]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def make_model(folder: Path) -> Path:
    """Write a model of some ten thousand parameters."""
    texts = [json.dumps(row(number)) for number in range(ROWS) for row in (sft_row, dpo_row)]
    tokenizer = train_tokenizer(texts, preset=SMALL, kind="bpe", vocab_size=300)
    torch.manual_seed(0)
    config = model_config(
        SMALL,
        vocab_size=len(tokenizer),
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    save_weights(LlamaForCausalLM(config), folder)
    tokenizer.save_pretrained(str(folder))
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Start the server as a user does, and stop it as a user does."""
    model = make_model(folder / "model")
    command = [sys.executable, "-m", "preftune.cli.main", "serve", "--port", "0"]
    command += ["--store", str(folder / "tour.db"), "--max-jobs", "2"]
    command += ["--model", f"tiny={model}", "--model", f"org/tiny={model}"]
    command += ["--access-log", str(folder / "access.jsonl")]
    config = folder / "config.yaml"
    config.write_text("job_nice: 0\n")  # other tests take all that is left
    command += ["--config", str(config)]
    log = folder / "server.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        try:
            yield _greeting(server, log)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def _greeting(server: "subprocess.Popen[str]", log: Path) -> Served:
    """Return what the server says of itself when it is ready."""
    assert server.stdout is not None
    said = ""
    for line in server.stdout:
        said += line
        found = re.search(r"OPENAI_BASE_URL=(\S+)\nexport OPENAI_API_KEY=(\S+)\n", said)
        if found:
            os.set_blocking(server.stdout.fileno(), False)
            return Served(url=found[1], key=found[2])
    raise AssertionError(f"the server did not start:\n{said}\n{log.read_text()}")
