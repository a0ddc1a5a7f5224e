"""Kill a training process just before each of its file operations; it must go on every time.

    python traced_kills.py FOLDER saving | publishing | command

The job runs in a child that the kernel stops at every system call (ptrace), whoever makes it:
Python, the Rust of safetensors, the C of anything else. Before the n-th call that changes the disk
the child gets SIGKILL; the job is then run again, undisturbed, and its results are compared. Then
the same with n + 1, until a child comes through alive. Prints one JSON object.
"""

import ctypes
import json
import os
import shutil
import signal
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from preftune.cli.main import main
from preftune.datasets import write_records
from preftune.engine.batches import Order
from preftune.engine.checkpoint import (
    Manifest,
    newest_checkpoint,
    read_manifest,
    verify,
    write_manifest,
)
from preftune.engine.learner import Learner
from preftune.engine.settings import OptimizerSettings
from preftune.files import atomic_folder, sha256_of
from preftune.models.new import new_model
from preftune.training.logs import read_rows
from preftune.training.run import Run
from preftune.training.settings import RunSettings
from preftune.types import PreferencePair, assistant, content_id, make_prompt, user

SAVE_EVERY = 2
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long
TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x100000  # mark stops at system calls; kill the child when the tracer dies
AT_SYSCALL = signal.SIGTRAP | 0x80
ENTRY = 1
CALLS = {  # numbers of the calls that change the disk
    "x86_64": {
        1: "write", 18: "write", 20: "write", 76: "truncate", 77: "truncate",
        2: "open", 85: "open", 257: "open", 74: "fsync", 75: "fsync",
        82: "rename", 264: "rename", 316: "rename", 83: "mkdir", 258: "mkdir",
        84: "delete", 87: "delete", 263: "delete", 90: "chmod", 91: "chmod", 268: "chmod",
    },
    "aarch64": {
        64: "write", 66: "write", 68: "write", 45: "truncate", 46: "truncate",
        56: "open", 82: "fsync", 83: "fsync", 38: "rename", 276: "rename", 34: "mkdir",
        35: "delete", 52: "chmod", 53: "chmod",
    },
}[os.uname().machine]  # fmt: skip
FLAGS_ARGUMENT = {2: 1, 257: 2, 56: 2}  # where `open` says what for
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if LIBC.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace request {request:#x}: {os.strerror(number)}")


def started(job: Callable[[], object]) -> int:
    """Fork a child that runs the job, stopped before its first line; return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            job()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.waitpid(pid, 0)
    ptrace(SETOPTIONS, pid, data=OPTIONS)
    return pid


def call_at_stop(pid: int) -> str | None:
    """Return what the call a stopped child is about to make does to the disk, if anything."""
    info = ctypes.create_string_buffer(88)
    ptrace(GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
    number, *arguments = struct.unpack_from("=7Q", info.raw, 24)
    if info.raw[0] != ENTRY or number not in CALLS:
        return None
    flags = FLAGS_ARGUMENT.get(number)
    return CALLS[number] if flags is None or arguments[flags] & WRITING else None


def run_until(job: Callable[[], object], place: int) -> list[str]:
    """Run the job, killed before its call number `place`; return the calls it made or began."""
    pid, calls, deliver = started(job), list[str](), 0
    while True:
        ptrace(SYSCALL, pid, data=deliver)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"the job failed at kill point {place}")
            return calls
        deliver = os.WSTOPSIG(status) if os.WSTOPSIG(status) != AT_SYSCALL else 0
        if not deliver and (call := call_at_stop(pid)):
            calls.append(call)
            if len(calls) == place:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return calls


@dataclass(frozen=True, kw_only=True, slots=True)
class TinySettings:
    """What `Run` asks of the settings of a method."""

    run: RunSettings


def saving(folder: Path) -> None:
    """Train 721 weights for five steps, a checkpoint every two."""
    s = TinySettings(run=RunSettings(out=folder, threads=1, save_every=SAVE_EVERY))
    with Run.open(s, method="tiny", inputs={"data": "d", "model": "m"}) as run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 40), nn.Tanh(), nn.Dropout(0.1), nn.Linear(40, 1))
        order = Order(lengths=(1,) * 20, batch_size=4, epochs=1.0, seed=0)
        learner = Learner.of(model, order, OptimizerSettings(lr=1e-2))
        learner.extra["rows"] = torch.zeros(())
        for step, rows in run.steps(learner):
            inputs = torch.tensor(rows, dtype=torch.float32)[:, None].expand(-1, 16) / 20
            loss = (model(inputs) - inputs[:, :1]).square().mean()
            loss.backward()
            learner.extra["rows"] += len(rows)
            run.update(learner, step=step, metrics={"loss": loss.item()})


def publishing(folder: Path) -> None:
    """Put a whole `final/` in place of the damaged one, as a run does at its end."""
    final = folder / "final"
    for left_over in folder.glob(".*.tmp"):
        shutil.rmtree(left_over)
    if verify(final) is None:
        return
    with atomic_folder(final) as writing:
        save_file({"weight": torch.arange(100.0)}, writing / "model.safetensors")
        (writing / "config.json").write_text("{}")
        write_manifest(writing, origin={"data": "d"})


def make_world(folder: Path) -> None:
    """Write a tiny model and eight pairs."""
    pairs = []
    for place in range(8):
        prompt = make_prompt(user(f"item {place} ?"))
        chosen, rejected = (assistant(f"yes item {place} ."),), (assistant("no ."),)
        name = content_id("pair", place)
        pairs.append(PreferencePair(id=name, prompt=prompt, chosen=chosen, rejected=rejected))
    texts = [m.content for p in pairs for m in (*p.prompt.messages, *p.chosen, *p.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=60, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", pairs, format="preftune")


def command(folder: Path) -> None:
    """Run `preftune train direct` for four steps, a checkpoint every two."""
    world = folder.parent
    arguments = [
        *("train", "direct", "--model", world / "base", "--data", world / "pairs.jsonl"),
        *("--out", folder, "--batch-size", 2, "--save-every", SAVE_EVERY, "--threads", 1),
    ]
    if main([str(argument) for argument in arguments]):
        raise RuntimeError("the command failed")


def results(folder: Path) -> dict[str, str]:
    """Return the hash of every file that must not depend on kills."""
    saved = sorted((folder / "checkpoints").glob("step-*"))[-2:]
    files = [f for part in (folder / "final", *saved) for f in sorted(part.glob("*"))]
    files += [f for f in [folder / "metrics.jsonl"] if f.exists()]
    return {str(file.relative_to(folder)): sha256_of(file) for file in files}


def problems_after_a_kill(folder: Path) -> Iterator[str]:
    """Yield what is wrong in a folder whose process was killed."""
    steps = len(read_rows(folder / "metrics.jsonl"))
    saved = sorted((folder / "checkpoints").glob("step-*"))
    newest = read_manifest(saved[-1]) if saved else Manifest(files={}, step=0)
    if newest is None or newest.step is None:
        yield "the newest checkpoint is not whole"
        return
    if steps - newest.step > SAVE_EVERY:
        yield f"{steps - newest.step} steps are lost"
    _, notes = newest_checkpoint(folder / "checkpoints", origin=newest.origin)
    if notes:
        yield f"the newest checkpoint does not verify: {notes}"


def kill_everywhere(folder: Path, job: Callable[[Path], None], *, points: int) -> dict[str, object]:
    """Return how many points were killed, which calls were seen, and every problem.

    Args:
        folder: holds `made`, what is there before the job begins.
        job: what is run in a copy of it.
        points: how many of the calls to kill at, evenly spread; 0: all of them.
    """
    for quiet in ("quiet", "again"):
        shutil.copytree(folder / "made", folder / quiet)
    job(folder / "again")  # here, so that no child has anything left to import
    calls = run_until(partial(job, folder / "quiet"), 0)
    wanted = results(folder / "quiet")
    problems = [] if wanted and results(folder / "again") == wanted else ["two quiet runs differ"]
    places = list(range(len(calls), 0, -(len(calls) // points) if points else -1))
    for place in places:
        out = folder / "killed"
        shutil.copytree(folder / "made", out)
        begun = run_until(partial(job, out), place)
        found = list(problems_after_a_kill(out))
        job(out)
        if results(out) != wanted:
            found.append("other bytes")
        found += [f"left {p.name}" for p in out.rglob("*") if p.suffix in (".tmp", ".corrupt")]
        problems += [f"killed before call {place}, {begun[-1]}: {what}" for what in found]
        shutil.rmtree(out)
    return {"points": len(places), "calls": Counter(calls), "problems": problems}


def answer(folder: Path, scenario: str) -> dict[str, object]:
    """Make what the scenario needs, then kill its job everywhere."""
    made = folder / "made"
    made.mkdir()
    if scenario == "saving":
        return kill_everywhere(folder, saving, points=0)
    if scenario == "publishing":
        (made / "final").mkdir()
        (made / "final" / "model.safetensors").write_bytes(b"damaged")
        return kill_everywhere(folder, publishing, points=0)
    make_world(folder)
    return kill_everywhere(folder, command, points=3)


if __name__ == "__main__":
    told = os.dup(1)
    os.dup2(2, 1)  # what the command prints is not the answer
    os.write(told, json.dumps(answer(Path(sys.argv[1]), sys.argv[2])).encode())
