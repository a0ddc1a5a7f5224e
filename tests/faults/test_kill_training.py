"""R3: a training process killed at any moment goes on to the same bytes.

Real processes, real SIGKILL: children of a fork server that has the libraries loaded already.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from preftune.datasets import write_records
from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.settings import OptimizerSettings
from preftune.files import sha256_of
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.training import direct, online, ppo, reward, rft, sft
from preftune.training.method_settings import RewardSettings
from preftune.training.policy_settings import (
    LeashSettings,
    OnlineSettings,
    PpoSettings,
    RewardingSettings,
    RftSettings,
    RolloutSettings,
    WatchSettings,
)
from preftune.training.run import Run
from preftune.training.settings import (
    DirectSettings,
    ProbeSettings,
    RunSettings,
    SftSettings,
)
from preftune.types import Demonstration, PreferencePair, assistant, content_id, make_prompt, user

KILLS = 5  # of each method
PRELOAD = [
    f"preftune.training.{name}" for name in ("sft", "reward", "direct", "rft", "ppo", "online")
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOAD)
OPTIMIZER = OptimizerSettings(lr=1e-3, batch_size=4, epochs=4.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EndlessSettings:
    """What `Run` asks of the settings of a method."""

    run: RunSettings


def rows() -> list[PreferencePair]:
    found = []
    for place in range(40):
        prompt = make_prompt(user(f"item {place % 8} number {place} ?"))
        found.append(
            PreferencePair(
                id=content_id("pair", place),
                prompt=prompt,
                chosen=(assistant(f"yes item {place % 8} is fine ."),),
                rejected=(assistant(f"no number {place % 5} ."),),
            )
        )
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    texts = [m.content for p in rows() for m in (*p.prompt.messages, *p.chosen, *p.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=90, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", rows(), format="preftune")
    chats = [Demonstration(id=p.id, prompt=p.prompt, response=p.chosen) for p in rows()]
    write_records(folder / "chats.jsonl", chats, format="preftune")
    asked = [
        {"messages": [{"role": "user", "content": p.prompt.messages[0].content}]} for p in rows()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "grader.yaml").write_text(GRADER)
    return folder


def sft_settings(world: Path, out: Path) -> SftSettings:
    return SftSettings(
        model=str(world / "base"),
        data=world / "chats.jsonl",
        optimizer=OPTIMIZER,
        run=RunSettings(out=out, threads=1, save_every=3),
    )


def reward_settings(world: Path, out: Path) -> RewardSettings:
    return RewardSettings(
        model=str(world / "base"),
        data=world / "pairs.jsonl",
        held_out=world / "pairs.jsonl",
        optimizer=OPTIMIZER,
        run=RunSettings(out=out, threads=1, save_every=3),
    )


def direct_settings(world: Path, out: Path) -> DirectSettings:
    return DirectSettings(
        model=str(world / "base"),
        data=world / "pairs.jsonl",
        optimizer=OPTIMIZER,
        nll_weight=0.2,
        lora=LoraSettings(lora_rank=4, lora_dropout=0.1),
        probe=ProbeSettings(probe_every=7, probe_prompts=4, probe_tokens=8),
        run=RunSettings(out=out, threads=1, save_every=3),
    )


GRADER = """
type: string_check
name: fine
input: "{{ sample.output_text }}"
reference: fine
operation: ilike
"""
SMALL = OptimizerSettings(lr=3e-3, batch_size=4, epochs=1.0)


def fresh(world: Path, out: Path, samples: int) -> dict[str, Any]:
    return {
        "model": str(world / "base"),
        "data": world / "rows.jsonl",
        "rollout": RolloutSettings(samples=samples, max_new_tokens=6),
        "rewarding": RewardingSettings(grader=world / "grader.yaml", missing_eos_penalty=0.1),
        "watch": WatchSettings(watch_every=4, watch_prompts=4, audit=world / "grader.yaml"),
        "optimizer": SMALL,
        "run": RunSettings(out=out, threads=1, save_every=3),
    }


def rft_settings(world: Path, out: Path) -> RftSettings:
    leash = LeashSettings(kl_coef=0.2, kl_target=0.5, kl_horizon=100)
    return RftSettings(**fresh(world, out, 4), leash=leash)


def ppo_settings(world: Path, out: Path) -> PpoSettings:
    return PpoSettings(**fresh(world, out, 2), lora=LoraSettings(lora_rank=2))


def online_settings(world: Path, out: Path) -> OnlineSettings:
    return OnlineSettings(**fresh(world, out, 4))


METHODS: dict[str, tuple[Callable[..., Path], Callable[[Path, Path], Any]]] = {
    "sft": (sft.train, sft_settings),
    "reward": (reward.train, reward_settings),
    "direct": (direct.train, direct_settings),
    "rft": (rft.train, rft_settings),
    "ppo": (ppo.train, ppo_settings),
    "online": (online.train, online_settings),
}


def results(run: Path) -> dict[str, str]:
    """Return the hash of every file that must not depend on kills."""
    files = [*sorted((run / "final").iterdir()), run / "metrics.jsonl"]
    files += [f for f in (run / "probes.jsonl", run / "held_out.json") if f.exists()]
    return {file.name: sha256_of(file) for file in files}


@pytest.mark.faults
@pytest.mark.parametrize("method", list(METHODS))
def test_r03_kills_at_random_moments_end_in_the_same_bytes(
    world: Path, tmp_path: Path, method: str
) -> None:
    train, settings_of = METHODS[method]
    began = time.monotonic()
    quiet = CONTEXT.Process(target=train, args=(settings_of(world, tmp_path / "quiet"),))
    quiet.start()
    quiet.join()
    assert quiet.exitcode == 0
    whole_s = time.monotonic() - began

    rng = random.Random(method)
    runs = [settings_of(world, tmp_path / "killed-0")]
    kills = 0
    while kills < KILLS:
        child = CONTEXT.Process(target=train, args=(runs[-1],))
        child.start()
        child.join(timeout=rng.uniform(0.02, 0.6) * whole_s)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            kills += 1
        child.join()
        if child.exitcode == 0:  # came through between two kills: kill another run
            runs.append(settings_of(world, tmp_path / f"killed-{len(runs)}"))
    for settings in runs:
        train(settings)
        assert results(settings.run.out) == results(tmp_path / "quiet")
    leftovers = [p.name for p in tmp_path.rglob(".*.tmp")]
    assert not leftovers


@pytest.mark.faults
def test_sigterm_saves_and_leaves_and_the_run_goes_on(world: Path, tmp_path: Path) -> None:
    s = sft_settings(world, tmp_path / "run")
    child = CONTEXT.Process(target=sft.train, args=(s,))
    child.start()
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(timeout=90)
    steps = metrics.read_bytes().count(b"\n")
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1].name
    assert child.exitcode != 0
    assert saved == f"step-{steps:06d}"
    sft.train(s)
    sft.train(sft_settings(world, tmp_path / "quiet"))
    assert results(tmp_path / "run") == results(tmp_path / "quiet")


def train_one_endless_step(out: Path) -> None:
    """Begin a step that takes an hour."""
    s = RunSettings(out=out, threads=1)
    with Run.open(EndlessSettings(run=s), method="endless", inputs={}) as run:
        order = Order(lengths=(1, 1), batch_size=1, epochs=1.0, seed=0)
        learner = Learner.of(nn.Linear(1, 1), order, OptimizerSettings())
        for _ in run.steps(learner):
            (out / "begun").touch()
            time.sleep(3600)


@pytest.mark.faults
def test_a_second_sigterm_ends_the_process_at_once(tmp_path: Path) -> None:
    child = CONTEXT.Process(target=train_one_endless_step, args=(tmp_path,))
    child.start()
    deadline = time.monotonic() + 180
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(timeout=0.5)
    assert child.is_alive()  # the first one waits for the end of the step
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(timeout=60)
    assert child.exitcode not in (None, 0)
