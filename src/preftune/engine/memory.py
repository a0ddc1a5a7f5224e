"""The memory of this process and of the machine: how malloc keeps it, and how much is left."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

SWITCH = "PREFTUNE_MALLOC"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # numbers of glibc's malloc.h
KEPT_BELOW = 1 << 30  # bytes; larger blocks go back to the kernel at once
NEVER = -1
LEAN_ABOVE = 1 << 20  # bytes; what `lean` returns to the kernel when it is freed


def keep_pages() -> bool:
    """Let freed memory stay in this process instead of going back to the kernel; True if it does.

    By default glibc returns every block above 32 MiB when it is freed, and the kernel hands out
    zeroed pages anew for the next tensor of the same size. A model of 5 million parameters with
    32,000 tokens then spends 2 to 3 s of 8 in the kernel, and 0.2 s with this; its peak is a fifth
    higher, that of others up to a seventh. `PREFTUNE_MALLOC=off` leaves malloc alone, and `lean`
    does the opposite: every freed block above 1 MiB goes back at once, so that no holes between
    tensors stay in this process, for more time in the kernel. Only on Linux with glibc; nothing
    happens elsewhere.

    Source: glibc manual, "Malloc Tunable Parameters".
    """
    on_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if os.environ.get(SWITCH) == "off" or not on_glibc:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if os.environ.get(SWITCH) == "lean":
        mallopt(M_MMAP_THRESHOLD, LEAN_ABOVE)
        return False
    # glibc before 2.35 refuses thresholds above 32 MiB: there no block at all is returned.
    kept = mallopt(M_MMAP_THRESHOLD, KEPT_BELOW) or mallopt(M_MMAP_MAX, 0)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, NEVER))


def available_bytes(device: torch.device, *, root: Path = Path("/")) -> int:
    """Return how much memory can still be used on a device, in bytes.

    On a CPU it is what the kernel calls available, or what the control groups of this process
    leave, if that is less.

    Args:
        device: the processor that trains.
        root: where /proc and /sys are.
    """
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return min(_machine_bytes(root), *_group_bytes(root))


def usable_bytes(device: torch.device, *, root: Path = Path("/")) -> int:
    """Return how much memory this process can have on a device, what it has already included."""
    if device.type == "cuda":
        return available_bytes(device) + int(torch.cuda.memory_reserved(device))
    return available_bytes(device, root=root) + _resident_bytes(root)


def _resident_bytes(root: Path) -> int:
    """Return what this process alone holds in memory, not what it maps from files."""
    try:
        _, resident, shared, *_ = (root / "proc/self/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _machine_bytes(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        known = dict(line.split(":", 1) for line in lines)
        return int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_bytes(root: Path) -> Iterator[int]:
    """Yield what each memory control group around this process leaves."""
    yield sys.maxsize
    for folder, limit, used, cache in _groups(root):
        try:
            most = int((folder / limit).read_text())
            now = int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield max(0, most - now + int(stat[cache]))
        except (OSError, KeyError, ValueError):  # no such group here, or its limit is `max`
            continue


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Yield folder, and the names of limit, use and reclaimable cache: version 2, then 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        inner = Path(path.lstrip("/"))
        for folder in (inner, *inner.parents):  # a container may see its own group as the top
            yield (top / folder, *names)
