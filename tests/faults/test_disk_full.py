"""R6: a full disk at any write is one clear error; with room again the run goes on, same bytes."""

import errno
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preftune.datasets import write_records
from preftune.engine.batches import Order
from preftune.engine.checkpoint import newest_checkpoint, read_manifest
from preftune.engine.learner import Learner
from preftune.engine.settings import OptimizerSettings
from preftune.errors import CheckpointError
from preftune.files import disk_trouble_named, sha256_of
from preftune.models.new import new_model
from preftune.training.logs import read_rows
from preftune.training.run import Run
from preftune.training.settings import RunSettings
from preftune.types import Demonstration, assistant, make_prompt, user

STEPS = 5
WHERE_AND_WHAT_TO_DO = (
    r"run: cannot write: (No space left on device|disk full)\. "
    r"Make room on this disk .* run the same command"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB; mounting one needs root."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.fail(f"no small disk, so nothing is tested: {ran.stderr.strip()}. Run as root.")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path, *, leave: int = 0) -> None:
    """Write a file that takes all room but some bytes."""
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - leave))


@dataclass(frozen=True, kw_only=True, slots=True)
class TinySettings:
    """What `Run` asks of the settings of a method."""

    run: RunSettings


def train(folder: Path, *, at: Callable[[str, int], None]) -> None:
    """Train 1.2 MB of weights for five steps, a checkpoint every two; tell what comes next."""
    s = TinySettings(run=RunSettings(out=folder, threads=1, save_every=2))
    with Run.open(s, method="tiny", inputs={"data": "d", "model": "m"}) as run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 400), nn.Tanh(), nn.Linear(400, 100), nn.Linear(100, 1))
        order = Order(lengths=(1,) * 10, batch_size=2, epochs=1.0, seed=0)
        learner = Learner.of(model, order, OptimizerSettings(lr=1e-3))
        for step, rows in run.steps(learner):
            loss = model(torch.tensor([rows], dtype=torch.float32)).square().mean()
            loss.backward()
            at("metrics", step)
            run.update(learner, step=step, metrics={"loss": loss.item()})
            at("checkpoint", step)
        at("publish", STEPS)
        run.publish(lambda final: (final / "weights").write_bytes(bytes(200_000)))


def results(run: Path) -> dict[str, str]:
    files = sorted(f for part in ("final", "checkpoints") for f in (run / part).rglob("*"))
    files = [f for f in files if f.is_file()] + [run / "metrics.jsonl"]
    return {str(file.relative_to(run)): sha256_of(file) for file in files}


def nothing(place: str, step: int) -> None:
    """Let the run go on."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that had room."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    train(run, at=nothing)
    return run


@pytest.mark.faults
@pytest.mark.parametrize(
    ("place", "step", "saved"),
    [
        ("metrics", 1, None),
        ("metrics", 3, 2),
        ("checkpoint", 1, None),
        ("checkpoint", 3, 2),
        ("checkpoint", 4, 4),
        ("publish", STEPS, STEPS),
    ],
)
def test_r06_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, quiet: Path, place: str, step: int, saved: int | None
) -> None:
    run = small_disk / "run"

    def fill_here(now: str, at: int) -> None:
        if (now, at) == (place, step):
            fill(small_disk)

    with pytest.raises(CheckpointError, match=WHERE_AND_WHAT_TO_DO) as raised:
        train(run, at=fill_here)
    assert "\n" not in str(raised.value)
    manifest = read_manifest(quiet / "checkpoints" / f"step-00000{STEPS}")
    assert manifest is not None
    checkpoint, notes = newest_checkpoint(run / "checkpoints", origin=manifest.origin)
    assert (checkpoint.step if checkpoint else None, notes) == (saved, [])
    assert not (run / "final").exists()
    assert not list(run.rglob(".*.tmp"))
    (small_disk / "ballast").unlink()
    train(run, at=nothing)
    assert results(run) == results(quiet)
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == list(range(STEPS))


@pytest.mark.faults
def test_r06_command_on_a_full_disk_says_it_in_one_line_and_goes_on_later(
    small_disk: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    rows = [
        Demonstration(
            id=f"row-{place}",
            prompt=make_prompt(user(f"item {place} ?")),
            response=(assistant(f"yes item {place % 3} ."),),
        )
        for place in range(6)
    ]
    texts = [m.content for row in rows for m in (*row.prompt.messages, *row.response)]
    base, data, run = tmp_path / "base", tmp_path / "chats.jsonl", small_disk / "run"
    new_model(base, preset="tiny", texts=texts, vocab_size=50, seed=0, tokenizer="words")
    write_records(data, rows, format="preftune")
    options = ("--lora-rank", 4, "--batch-size", 3, "--save-every", 1, "--threads", 1)
    command = ("train", "sft", "--model", base, "--data", data, *options, "--out")
    assert run_cli(*command, tmp_path / "quiet").code == 0
    wanted = results(tmp_path / "quiet")
    needed = sum(f.stat().st_size for f in (tmp_path / "quiet").rglob("*") if f.is_file())
    for leave in (0, needed // 8, needed // 2, needed * 9 // 10):
        fill(small_disk, leave=leave)
        stopped = run_cli(*command, run)
        assert stopped.code == 2
        assert re.search(WHERE_AND_WHAT_TO_DO, stopped.err)
        assert len(stopped.err.strip().splitlines()) == 1
        (small_disk / "ballast").unlink()
        assert run_cli(*command, run).code == 0
        assert results(run) == wanted
        assert not list(run.rglob(".*.tmp"))
        shutil.rmtree(run)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EROFS])
def test_disk_trouble_is_named_with_the_folder(tmp_path: Path, number: int) -> None:
    match = f"{tmp_path}: cannot write: "
    with pytest.raises(CheckpointError, match=match), disk_trouble_named(tmp_path):
        raise OSError(number, "said by the system")


def test_other_errors_pass_untouched(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_trouble_named(tmp_path):
        (tmp_path / "none").read_bytes()
