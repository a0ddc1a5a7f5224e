"""How fast a server with models answers: chats at once, and simple reads beside them and a job.

    python -m benchmarks.serving_load --chats 200 --at-once 50

starts a server of its own with a tiny model, on a new store, a few times, and says how long that
takes; then measures chats and reads, first alone, then while a job trains. Server, worker,
generation process and clients share this machine.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.labelling_clients import percentile
from benchmarks.machine import Load, processor
from benchmarks.results import one_line

START_S = 120.0
PAUSE_S = 0.02  # between two reads
READS = ("/models", "/fine_tuning/jobs", "/files")
TEXTS = ("can i wash my bear ?", "yes , thank you , wash it warm .", "no , dry it in the sun .")
ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What clients saw: seconds of each chat and of each read, and what was no 200."""

    chats_s: tuple[float, ...]
    reads_s: tuple[float, ...]
    errors: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """Return what is told of it."""
        return {
            "chats": len(self.chats_s),
            "chat_p50_ms": 1000 * percentile(self.chats_s, 0.5),
            "chat_p99_ms": 1000 * percentile(self.chats_s, 0.99),
            "reads": len(self.reads_s),
            "read_p50_ms": 1000 * percentile(self.reads_s, 0.5),
            "read_p95_ms": 1000 * percentile(self.reads_s, 0.95),
            "errors": len(self.errors),
        }


async def measure(
    url: str, key: str, *, model: str, chats: int, at_once: int, max_tokens: int
) -> Seen:
    """Send chats, `at_once` under way at a time, and reads one after another until they end."""
    chat_s: list[float] = []
    read_s: list[float] = []
    errors: list[str] = []
    places = asyncio.Semaphore(at_once)
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx2.Limits(max_connections=None)

    async def timed(kept: list[float], asked: httpx2.Request) -> None:
        began = time.monotonic()
        answer = await http.send(asked)
        kept.append(time.monotonic() - began)
        if answer.status_code != 200:
            errors.append(
                f"{asked.method} {asked.url.path}: {answer.status_code} {answer.text[:200]}"
            )

    async def chat(number: int) -> None:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": TEXTS[number % len(TEXTS)]}],
            "max_tokens": max_tokens,
            "seed": number,
        }
        async with places:
            await timed(chat_s, http.build_request("POST", "/chat/completions", json=body))

    async def read() -> None:
        number = 0
        while True:
            await timed(read_s, http.build_request("GET", READS[number % len(READS)]))
            number += 1
            await asyncio.sleep(PAUSE_S)

    async with httpx2.AsyncClient(
        base_url=url, headers=headers, limits=limits, trust_env=False, timeout=600
    ) as http:
        reading = asyncio.create_task(read())
        await asyncio.gather(*(chat(number) for number in range(chats)))
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    return Seen(chats_s=tuple(chat_s), reads_s=tuple(read_s), errors=tuple(errors))


def start_job(http: httpx2.Client, *, model: str, epochs: int) -> str:
    """Make a job that imitates a few rows, and return its id once it trains."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{TEXTS[0]} {number}"},
                {"role": "assistant", "content": TEXTS[1 + number % 2]},
            ]
        }
        for number in range(ROWS)
    ]
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    sent = http.post(
        "/files",
        files={"file": ("rows.jsonl", content, "application/octet-stream")},
        data={"purpose": "fine-tune"},
    )
    sent.raise_for_status()
    numbers = {"n_epochs": epochs, "batch_size": 8}
    method = {"type": "supervised", "supervised": {"hyperparameters": numbers}}
    body = {"model": model, "training_file": sent.json()["id"], "method": method, "seed": 0}
    made = http.post("/fine_tuning/jobs", json=body)
    made.raise_for_status()
    job_id: str = made.json()["id"]
    ends = time.monotonic() + START_S
    while not has_begun(http, job_id):
        if time.monotonic() > ends:
            raise SystemExit(f"{job_id} does not begin")
        time.sleep(0.1)
    return job_id


def has_begun(http: httpx2.Client, job_id: str) -> bool:
    """Return whether a job has told of a step."""
    events = http.get(f"/fine_tuning/jobs/{job_id}/events").raise_for_status().json()["data"]
    return any(event["type"] == "metrics" for event in events)


def start_s(folder: Path, model: Path) -> float:
    """Return the seconds from the command to the line that says where the server is."""
    folder.mkdir()
    began = time.monotonic()
    with running(folder, model):
        return time.monotonic() - began


@contextmanager
def running(folder: Path, model: Path) -> Iterator[tuple[str, str]]:
    """Run a server as a process of its own until the block ends; yield its URL and key."""
    command = [sys.executable, "-m", "preftune.cli.main", "serve", "--port", "0"]
    command += ["--store", str(folder / "preftune.db"), "--model", f"tiny={model}"]
    command += ["--access-log", str(folder / "access.log")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        said = ""
        while process.stdout is not None and "OPENAI_API_KEY" not in said:
            line = process.stdout.readline()
            if not line:
                raise SystemExit((folder / "server.log").read_text())
            said += line
        url, key = (re.search(f"{name}=(\\S+)", said) for name in ("BASE_URL", "API_KEY"))
        if url is None or key is None:
            raise SystemExit(said)
        yield url[1], key[1]
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    """Measure what the flags say and print it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--starts", type=int, default=7)
    flags = parser.parse_args()
    from preftune.models.new import new_model

    how: dict[str, Any] = {
        "model": "tiny",
        "chats": flags.chats,
        "at_once": flags.at_once,
        "max_tokens": flags.max_tokens,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = new_model(
            folder / "tiny", preset="tiny", texts=TEXTS, vocab_size=300, seed=0, tokenizer="bpe"
        )
        load = Load()
        starts = [start_s(folder / f"start-{number}", model) for number in range(flags.starts)]
        with running(folder, model) as (url, key):
            headers = {"Authorization": f"Bearer {key}"}
            with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
                asyncio.run(measure(url, key, **{**how, "chats": flags.at_once}))  # loads the model
                alone = asyncio.run(measure(url, key, **how))
                job_id = start_job(http, model="tiny", epochs=50)
                beside = asyncio.run(measure(url, key, **how))
                state = http.get(f"/fine_tuning/jobs/{job_id}").json()["status"]
                http.post(f"/fine_tuning/jobs/{job_id}/cancel")
    told = {
        "start_s": {"median": statistics.median(starts), "all": starts},
        "alone": alone.figures(),
        "while_training": beside.figures(),
        "job_at_the_end": state,
        "cores": os.cpu_count(),
        "foreign_cores": load.foreign_cores(),
        "processor": processor(),
    }
    print(one_line(told))


if __name__ == "__main__":
    main()
