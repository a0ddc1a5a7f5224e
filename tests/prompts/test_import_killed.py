"""The real command on large logs: little memory, and killed on the way it is simply run again."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.prompts.logs import prompts_in, responses_in

from preftune.files import read_json

ASKED_OFTEN = 2_000  # prompts that one row in five repeats


def make_log(path: Path, *, size: int) -> int:
    """Write a log of at least `size` bytes and return how many rows it has."""
    texts = [" ".join(f"word{(n * 37 + at * at) % 5000}" for at in range(50)) for n in range(100)]
    rows = written = 0
    with path.open("w") as file:
        while written < size:
            often = rows % 5 == 0
            asked = f"asked often {rows % ASKED_OFTEN}" if often else f"{rows} {texts[rows % 100]}"
            written += file.write(
                f'{{"id": "row-{rows}", "messages": [{{"role": "user", "content": "{asked}"}}, '
                f'{{"role": "assistant", "content": "{rows} {texts[rows // 7 % 100]}"}}]}}\n'
            )
            rows += 1
    return rows


@contextmanager
def importing(log: Path, folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    files = ["--out", str(folder / "p.jsonl"), "--responses", str(folder / "r.jsonl")]
    program = [sys.executable, "-m", "preftune.cli.main", "prompts", "import", str(log), *files]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
        yield process


def finish(log: Path, folder: Path) -> int:
    """Import, and return the most memory that the process ever held, in KiB."""
    peak = 0
    with importing(log, folder) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(s.split()[1]) for s in status if s.startswith("VmHWM"))])
            time.sleep(0.02)
    assert process.returncode == 0
    return peak


def kill_when_written(log: Path, folder: Path, *, size: int) -> None:
    """Kill an import once its responses, still under a temporary name, have grown to `size`."""
    with importing(log, folder) as process:
        while sum(path.stat().st_size for path in folder.glob(".r.jsonl.*.tmp")) < size:
            assert process.poll() is None, "the import ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not [path for path in folder.iterdir() if path.suffix != ".tmp"]
    for left in folder.glob(".*.tmp"):
        left.unlink()


@pytest.mark.faults
def test_import_killed_twice_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    make_log(log, size=2_000_000)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    finish(log, whole)
    for size in (100_000, 600_000):
        kill_when_written(log, killed, size=size)
    finish(log, killed)
    names = ["p.jsonl", "p.report.json", "r.jsonl"]
    assert sorted(path.name for path in killed.iterdir()) == names
    assert all((killed / n).read_bytes() == (whole / n).read_bytes() for n in names)


@pytest.mark.slow
def test_50_mb_killed_and_run_again_need_less_than_300_mb_and_double_nothing(
    tmp_path: Path,
) -> None:
    log, folder = tmp_path / "log.jsonl", tmp_path / "out"
    folder.mkdir()
    rows = make_log(log, size=50_000_000)
    kill_when_written(log, folder, size=5_000_000)
    assert finish(log, folder) < 300 * 1024
    report = read_json(folder / "p.report.json")
    often = len({n % ASKED_OFTEN for n in range(0, rows, 5)})
    different = rows - len(range(0, rows, 5)) + often
    assert (report["rows"], report["prompts"], report["responses"]) == (rows, different, rows)
    prompts, responses = prompts_in(folder / "p.jsonl"), responses_in(folder / "r.jsonl")
    assert len({p.id for p in prompts}) == len(prompts) == different
    assert len({r.id for r in responses}) == len(responses) == rows
    lines = sorted(row.line for prompt in prompts for row in prompt.log_rows[:1])
    assert len(set(lines)) == different
