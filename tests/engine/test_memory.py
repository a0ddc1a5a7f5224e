"""Pages kept by malloc, and how much memory there is, by hand-made /proc and /sys trees."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from preftune.engine.memory import available_bytes, keep_pages

CPU = torch.device("cpu")
FAULTS = """
import resource, sys, torch
from preftune.engine.memory import keep_pages
kept = keep_pages()
x = torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    y = x * 2
    del y
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(switch: str) -> tuple[str, int]:
    """Return whether pages were kept, and the page faults of 60 products of 40 MB."""
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS],
        capture_output=True,
        text=True,
        check=True,
        env={"PREFTUNE_MALLOC": switch, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    kept, count = ran.stdout.split()
    return kept, int(count)


def test_kept_pages_are_not_faulted_in_again_and_again() -> None:
    kept, few = faults("")
    off, many = faults("off")
    lean, again = faults("lean")
    assert off == lean == "False"
    if kept == "True":  # glibc
        assert few < many / 2
        assert few < again / 2


def test_pages_are_left_alone_when_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_MALLOC", "off")
    assert keep_pages() is False


def machine(root: Path, *, cgroup: str = "") -> Path:
    """Write a machine with 8000 kB available, in these control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:    8000 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def write_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_without_a_limit_the_kernels_word_counts(tmp_path: Path) -> None:
    assert available_bytes(CPU, root=machine(tmp_path)) == 8000 * 1024


def test_a_group_leaves_its_limit_minus_use_plus_cache(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/box/inner\n")
    write_group(
        root / "sys/fs/cgroup/box/inner",
        {"memory.max": "max", "memory.current": "1000", "memory.stat": "inactive_file 5"},
    )
    write_group(
        root / "sys/fs/cgroup/box",
        {"memory.max": "500000", "memory.current": "300000", "memory.stat": "inactive_file 7000"},
    )
    assert available_bytes(CPU, root=root) == 500_000 - 300_000 + 7000


def test_a_group_of_version_1_seen_from_inside_a_container_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    write_group(
        root / "sys/fs/cgroup/memory",
        {
            "memory.limit_in_bytes": "400000",
            "memory.usage_in_bytes": "100000",
            "memory.stat": "cache 9\ntotal_inactive_file 2000",
        },
    )
    assert available_bytes(CPU, root=root) == 302_000


def test_a_wide_group_changes_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/\n")
    write_group(
        root / "sys/fs/cgroup",
        {"memory.max": str(1 << 60), "memory.current": "0", "memory.stat": "inactive_file 0"},
    )
    assert available_bytes(CPU, root=root) == 8000 * 1024


def test_without_proc_all_of_the_machines_memory_counts(tmp_path: Path) -> None:
    assert available_bytes(CPU, root=tmp_path) > 1 << 20
