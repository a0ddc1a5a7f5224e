"""A large log in little memory, and a process killed on the way: run again, the same bytes."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from preftune.prompts.import_log import import_log
log, folder = map(Path, sys.argv[1:])
report = import_log(log, folder / "p.jsonl", responses=folder / "r.jsonl")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(report.rows, report.prompts, int(peak.split()[1]))
"""


def make_log(path: Path, *, size: int) -> int:
    """Write a log of at least `size` bytes; one row in five repeats one of 2,000 prompts."""
    rng = random.Random(0)
    words = [f"word{n}" for n in range(5_000)]
    rows = written = 0
    with path.open("w") as file:
        while written < size:
            asked = " ".join(rng.choices(words, k=50))
            if rng.random() < 0.2:
                asked = f"asked often {rng.randrange(2_000)}"
            said = " ".join(rng.choices(words, k=50))
            written += file.write(
                f'{{"id": {rows}, "messages": [{{"role": "user", "content": "{asked}"}}, '
                f'{{"role": "assistant", "content": "{said}"}}], "model": "m"}}\n'
            )
            rows += 1
    return rows


def start(log: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(log), str(folder)], stdout=subprocess.PIPE, text=True
    )


def finish(log: Path, folder: Path) -> list[int]:
    """Import and return rows, prompts and the most memory the process ever held, in KiB."""
    with start(log, folder) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    return [int(number) for number in printed.split()]


def kill_when_written(log: Path, folder: Path, *, size: int) -> None:
    """Kill an import once its responses, still under a temporary name, have grown to `size`."""
    with start(log, folder) as process:
        while sum(path.stat().st_size for path in folder.glob(".r.jsonl.*.tmp")) < size:
            assert process.poll() is None, "the import ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.faults
def test_import_killed_twice_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    make_log(log, size=4_000_000)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    finish(log, whole)
    for size in (100_000, 1_000_000):
        kill_when_written(log, killed, size=size)
        assert not [path for path in killed.iterdir() if path.suffix != ".tmp"]
        for left in killed.glob(".*.tmp"):
            left.unlink()
    finish(log, killed)
    names = ["p.jsonl", "p.report.json", "r.jsonl"]
    assert sorted(path.name for path in killed.iterdir()) == names
    assert all((killed / n).read_bytes() == (whole / n).read_bytes() for n in names)


@pytest.mark.slow
def test_50_mb_need_less_than_300_mb_of_memory(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = make_log(log, size=50_000_000)
    found, prompts, peak_kib = finish(log, tmp_path / "out")
    assert found == rows
    assert prompts < rows
    assert peak_kib < 300 * 1024
