"""docs/moving-from-a-hosted-service.md, run from its first block to its last; ports are changed.

The hosted service is another server of ours, with a model of its own.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI
from tests.serving.conftest import free_port

from preftune.models.new import new_model

PAGE = (Path(__file__).parents[2] / "docs" / "moving-from-a-hosted-service.md").read_text()
BLOCK = re.compile(r"(?:^`(?P<name>[\w.]+)`\n)?```(?P<kind>\w+)\n(?P<code>.*?)```", re.M | re.S)
KEY = re.compile(r"^export OPENAI_API_KEY=(pft_\S+)$", re.M)
START_S = 60.0
PATIENCE_S = 600  # of one block, on a machine with other things to do
GATED = {0, 1, 3}  # ship, don't, can't tell

THINGS = ("red coat", "blue hat", "green scarf", "old boots")
ASKED = {
    "wash": ("yes wash it cold", "no"),
    "iron": ("no never iron it", "yes iron it hot"),
    "send back": ("yes send it back", "no"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A block of the page: a file to write when it has a name, else commands to run."""

    name: str | None
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Where a server is, and a key to it."""

    port: int
    key: str

    @property
    def environment(self) -> dict[str, str]:
        return {"OPENAI_BASE_URL": f"http://127.0.0.1:{self.port}/v1", "OPENAI_API_KEY": self.key}


def blocks() -> list[Block]:
    found = [Block(name=m["name"], code=m["code"]) for m in BLOCK.finditer(PAGE)]
    assert len(found) == len(re.findall("^```\\w", PAGE, re.M))
    return found


def rows() -> tuple[list[object], list[object]]:
    """Return chats and pairs as hosted services take them."""
    chats: list[object] = []
    pairs: list[object] = []
    for thing in THINGS:
        for verb, (good, bad) in ASKED.items():
            asked = {"role": "user", "content": f"can i {verb} the {thing}"}
            right, wrong = ({"role": "assistant", "content": text} for text in (good, bad))
            chats.append({"messages": [asked, right]})
            sides = {"preferred_output": [right], "non_preferred_output": [wrong]}
            pairs.append({"input": {"messages": [asked]}, **sides})
    return chats, pairs


def make_model(folder: Path, *, seed: int) -> None:
    chats, _ = rows()
    words = [json.dumps(row).replace('"', " ") for row in chats] + ["yes iron it hot no"]
    new_model(folder, preset="tiny", texts=words, vocab_size=200, seed=seed, tokenizer="words")


def environment(**more: str) -> dict[str, str]:
    """Return an environment with our commands first, and none of a user's keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", **more}


@contextmanager
def server(folder: Path, command: str, port: int) -> Iterator[Access]:
    """Run a command that starts a server until the block ends."""
    log = folder / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(), stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + START_S
        while (key := KEY.search(log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Access(port=port, key=key[1])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a user comes with: files in the hosted service's format, and an open model."""
    chats, pairs = rows()
    for name, found in (("chats", chats), ("pairs", pairs)):
        text = "".join(json.dumps(row) + "\n" for row in found)
        (tmp_path / f"{name}.jsonl").write_text(text)
    make_model(tmp_path / "models" / "base", seed=0)
    make_model(tmp_path / "hosted", seed=1)
    return tmp_path


def run(code: str, folder: Path, access: Access, *, codes: set[int]) -> str:
    """Run commands as a user's shell would, stopping at the first that fails."""
    ran = subprocess.run(
        ["bash", "-euc", code],
        cwd=folder,
        env=environment(**access.environment, OLD_MODEL="hosted"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode in codes, f"{code}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_the_page_runs_from_its_first_block_to_its_last(folder: Path) -> None:
    commands = [block.code for block in blocks() if block.name is None]
    for block in blocks():
        if block.name:
            (folder / block.name).write_text(block.code)
    record, serve, export, *rest = commands
    tune, record_new, compare = rest
    assert [one.split()[0] for one in commands[:3]] == ["python", "preftune", "export"]

    old_port, port = free_port(), free_port()
    hosted = f"preftune serve --store hosted.db --model hosted=hosted --port {old_port}"
    with server(folder, hosted, old_port) as old:
        said = run(record, folder, old, codes={0})
        assert len(said.splitlines()) == 4
    with server(folder, serve.strip().replace("8000", str(port)), port) as new:
        told = dict(re.findall(r"^export (\w+)=(\S+)$", export, re.M))
        assert (
            told["OPENAI_BASE_URL"].replace("8000", str(port)) == new.environment["OPENAI_BASE_URL"]
        )
        tuned = run(tune, folder, new, codes={0})
        assert tuned.count("The job has successfully completed") == 2
        client = OpenAI(
            base_url=told["OPENAI_BASE_URL"].replace("8000", str(port)), api_key=new.key
        )
        dpo = client.fine_tuning.jobs.list().data[0]
        assert dpo.fine_tuned_model == (folder / "model.txt").read_text()
        events = list(client.fine_tuning.jobs.list_events(dpo.id))
        losses = {e.data["step"]: e.data["train_loss"] for e in events if e.type == "metrics"}  # type: ignore[index]  # typed as object
        assert losses[1] == pytest.approx(math.log(2), abs=1e-4)
        assert len(losses) == 2 * len(THINGS) * len(ASKED) // 4
        run(record_new, folder, new, codes={0})
    run(compare, folder, new, codes=GATED)
    gate = json.loads((folder / "gate.json").read_text())
    assert [result["name"] for result in gate["results"]] == ["nothing lost", "not worse", "length"]
    assert gate["candidate"] == "new"


def test_the_dates_stand_with_the_advice_to_check_them() -> None:
    _, part = PAGE.split("## What ends, and when")
    said = part.split("## 1.")[0]
    for date in (
        "7 May 2026",
        "2 July 2026",
        "23 October 2026",
        "6 January 2027",
        "14 January 2027",
    ):
        assert date in said
    assert "check the dates" in said
