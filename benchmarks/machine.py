"""The machine: what it is, who else uses it, how much memory this process took."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal in /proc/stat
BF16 = {"amx_bf16": "bf16 by AMX", "avx512_bf16": "bf16 by AVX-512"}  # by flag, fastest first
PACKAGES = ("torch", "transformers", "peft", "trl", "preftune")


class Load:
    """Processor time that others took since this was made."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), busy_s(), own_s()

    def foreign_cores(self) -> float:
        """Return how many cores others kept busy on average; 0.0 is a quiet machine."""
        elapsed = time.monotonic() - self._began
        others = (busy_s() - self._busy) - (own_s() - self._own)
        return max(0.0, others / elapsed)


def busy_s() -> float:
    """Return the seconds all cores together have been busy since the machine started."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(first[i]) for i in BUSY) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """Return the processor seconds of this process and of its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def process_age_s() -> float:
    """Return the seconds since this process was started, the interpreter's own start included."""
    after_name = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, after boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def peak_mb() -> float:
    """Return the most memory this process ever held, in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("/proc/self/status: no VmHWM. Run the benchmarks on Linux.")


def processor() -> str:
    """Return what the machine calls its processor, how it computes bf16, cores and memory."""
    about = dict(
        [part.strip() for part in line.split(":", 1)]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    flags = about.get("flags", "").split()
    bf16 = next((name for flag, name in BF16.items() if flag in flags), "no bf16 instructions")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = about.get("model name", platform.machine())
    return f"{name} ({bf16}), {os.cpu_count()} cores, {memory:.0f} GiB"


def versions() -> dict[str, str]:
    """Return the installed version of each package that matters, Python included."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
