"""Measure one side answering chats, and print it as one line of JSON.

python -m benchmarks.serving_worker --side ours --model S --data pairs.jsonl --cache models
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.config import add_flags, from_flags
from benchmarks.machine import Load, peak_mb, processor, versions
from benchmarks.results import one_line
from benchmarks.worker import NO_NETWORK
from preftune.errors import PreftuneError

NEW_TOKENS = 64  # of each reply; nothing ends before
STARTED_S = 120
Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """Who answers how many chats.

    transformers answers one after the other with `generate`; ours is the generation process with as
    many requests at once. Both draw at temperature 1.
    """

    side: Literal["transformers", "ours"]
    model: Literal["S", "M"] = "S"
    chats: int = 16  # of one epoch
    at_once: int = 16
    adapters: int = 0  # LoRA adapters of rank 16 that the chats go to in turn; 0: the base
    epochs: int = 3  # timed ones, each answers all chats
    warmup: int = 1  # epochs before them

    @property
    def label(self) -> str:
        """Name of the configuration."""
        parts = [self.side, "serving", self.model, f"c{self.chats}", f"a{self.at_once}"]
        return "-".join([*parts, f"lora{self.adapters}"] if self.adapters else parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingResult:
    """What it took."""

    config: ServingConfig
    prompt_tokens: int
    new_tokens: int  # of one epoch
    epoch_s: list[float]  # timed epochs only
    first_s: list[float]  # of each chat of the timed epochs: until its first token
    whole_s: list[float]  # until its last
    peak_mb: float  # of the process that computes
    foreign_cores: float
    threads: int
    processor: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> list[float]:
        """New tokens per second of each timed epoch."""
        return [self.new_tokens / seconds for seconds in self.epoch_s]


@dataclass(kw_only=True, slots=True)
class Epoch:
    """What one epoch took, and each of its chats."""

    seconds: float
    tokens: int
    first_s: list[float]
    whole_s: list[float]


def prompts_for(config: ServingConfig, data: Path, cache: Path) -> tuple[Path, list[Ids]]:
    """Return the folder of the model, made where it is missing, and the prompts as ids."""
    from benchmarks.data import stratified, texts_of, usable_pairs
    from benchmarks.models import make_model
    from preftune.models.chat import load_chat

    pairs = usable_pairs(data)
    model = make_model(config.model, texts_of(pairs), cache / config.model)
    chat = load_chat(model)
    drawn = stratified(pairs, chat, count=config.chats, batch=config.chats)
    return model, [chat.prompt_ids(pair.prompt) for pair in drawn]


def adapters_for(config: ServingConfig, model: Path, place: Path) -> list[Path]:
    """Return the folders that the chats go to: random adapters, or the model itself."""
    if not config.adapters:
        return [model]
    import torch

    from preftune.models.adapters import add_lora, save_adapter
    from preftune.models.load import load_policy
    from preftune.models.lora import LoraSettings

    folders = []
    for seed in range(config.adapters):
        tuned = add_lora(load_policy(model), LoraSettings(lora_rank=16), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.01, generator=generator)
        folders.append(save_adapter(tuned, place / f"adapter{seed}"))
    return folders


def transformers(folder: Path, prompts: Sequence[Ids]) -> Callable[[int], Epoch]:
    """Return what answers all chats from a seed with transformers' own `generate`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    model.generation_config.eos_token_id = None  # so that nothing ends a reply

    def answer(seed: int) -> Epoch:
        torch.manual_seed(seed)
        began, ends = time.perf_counter(), []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )
            ends.append(time.perf_counter() - began)
        tokens = NEW_TOKENS * len(prompts)
        return Epoch(seconds=ends[-1], tokens=tokens, first_s=[], whole_s=ends)

    return answer


@contextmanager
def process(threads: int) -> Iterator[tuple[Path, int]]:
    """Yield the socket and the number of a generation process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generate.sock"
        command = [sys.executable, "-m", "preftune.hosting", "--socket", str(path)]
        with subprocess.Popen([*command, "--threads", str(threads)]) as running:
            try:
                end = time.monotonic() + STARTED_S
                while not path.exists() and time.monotonic() < end:
                    time.sleep(0.05)
                yield path, running.pid
            finally:
                running.terminate()


def ours(
    config: ServingConfig, folders: Sequence[Path], prompts: Sequence[Ids], path: Path
) -> Callable[[int], Epoch]:
    """Return what sends all chats, so many at once, to a process and waits for the answers."""
    import httpx2
    import msgspec

    from preftune.wire.chat import Ask, Done, Drawing, Piece, read_line

    async def one(
        client: httpx2.AsyncClient, places: asyncio.Semaphore, number: int, seed: int, began: float
    ) -> tuple[float, float, int]:
        ask = Ask(
            model=str(folders[number % len(folders)]),
            ids=prompts[number],
            drawing=Drawing(max_tokens=NEW_TOKENS, seed=seed + number),
            stream=True,
        )
        first_s, tokens = 0.0, 0
        async with (
            places,
            client.stream("POST", "/generate", content=msgspec.json.encode(ask)) as reply,
        ):
            async for line in reply.aiter_lines():
                told = read_line(line.encode())
                if isinstance(told, Piece) and not first_s:
                    first_s = time.perf_counter() - began
                if isinstance(told, Done):
                    tokens = told.drawn_tokens
        whole_s = time.perf_counter() - began
        return first_s or whole_s, whole_s, tokens

    async def answer_all(seed: int) -> Epoch:
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        places = asyncio.Semaphore(config.at_once)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://generate", timeout=600
        ) as client:
            began = time.perf_counter()
            every = [one(client, places, i, 1000 * seed, began) for i in range(len(prompts))]
            found = await asyncio.gather(*every)
            seconds = time.perf_counter() - began
        return Epoch(
            seconds=seconds,
            tokens=sum(tokens for _, _, tokens in found),
            first_s=[first for first, _, _ in found],
            whole_s=[whole for _, whole, _ in found],
        )

    return lambda seed: asyncio.run(answer_all(seed))


def measure(config: ServingConfig, data: Path, cache: Path) -> ServingResult:
    """Answer all chats again and again and return what it took."""
    load = Load()
    model, prompts = prompts_for(config, data, cache)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    if config.side == "transformers":
        epochs = answered(config, transformers(model, prompts))
        peak = peak_mb()
    else:
        with tempfile.TemporaryDirectory() as place, process(threads) as (path, pid):
            folders = adapters_for(config, model, Path(place))
            epochs = answered(config, ours(config, folders, prompts, path))
            peak = peak_of(pid)
    return ServingResult(
        config=config,
        prompt_tokens=sum(map(len, prompts)),
        new_tokens=epochs[0].tokens,
        epoch_s=[epoch.seconds for epoch in epochs],
        first_s=[one for epoch in epochs for one in epoch.first_s],
        whole_s=[one for epoch in epochs for one in epoch.whole_s],
        peak_mb=peak,
        foreign_cores=load.foreign_cores(),
        threads=threads,
        processor=processor(),
        versions=versions(),
    )


def peak_of(pid: int) -> float:
    """Return the most memory another process ever held, in MB of 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


def answered(config: ServingConfig, answer: Callable[[int], Epoch]) -> list[Epoch]:
    """Return the timed epochs."""
    return [answer(seed) for seed in range(config.warmup + config.epochs)][config.warmup :]


def main() -> None:
    """Measure what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, ServingConfig)
    parser.add_argument("--data", type=Path, required=True, help="pairs to take prompts from")
    parser.add_argument("--cache", type=Path, required=True, help="folder of models")
    arguments = parser.parse_args()
    os.environ.update(NO_NETWORK)
    try:
        config: Any = from_flags(arguments, ServingConfig)
        print(one_line(measure(config, arguments.data, arguments.cache)))
    except PreftuneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
