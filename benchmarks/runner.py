"""Run jobs one after the other, each in a process of its own; never twice what is done."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.results import Line, read_lines
from preftune.files import append_jsonl
from preftune.progress import progress

MOST_FOREIGN_CORES = 0.1
LIMIT_S = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One process that prints its result as its last line."""

    label: str
    command: tuple[str, ...]  # after the interpreter


def run_groups(
    groups: Sequence[Sequence[Job]], *, rounds: int, path: Path, most_tries: int = 3
) -> None:
    """Run every job of every group `rounds` times; the jobs of a group take turns.

    Each result is appended as it comes; after a stop the same call goes on with what is missing.
    Failed runs are tried again then.

    Args:
        groups: jobs that are set against each other.
        rounds: runs of each job.
        path: the results file, JSON lines.
        most_tries: runs of one job in one round while others use the cores.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {(line.label, line.round) for line in read_lines(path) if not line.failed}
    turns = [(job, number) for group in groups for number in range(rounds) for job in group]
    with progress("benchmark", len(turns)) as advance:
        for job, number in turns:
            if (job.label, number) not in done:
                append_jsonl(path, run_quietly(job, number, most_tries))
                done.add((job.label, number))
            advance(note=job.label)


def run_quietly(job: Job, number: int, most_tries: int) -> Line:
    """Run a job; again while others use the cores, up to `most_tries`; the last one is kept."""
    for tries in range(1, most_tries + 1):
        line = run_once(job, number, tries)
        if line.failed or foreign_cores(line) <= MOST_FOREIGN_CORES:
            break
    return line


def run_once(job: Job, number: int, tries: int) -> Line:
    """Run a job and return its result, or why there is none."""
    nothing = msgspec.Raw(b"null")
    try:
        ran = subprocess.run(
            [sys.executable, *job.command],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        )
    except subprocess.TimeoutExpired:
        why = f"took longer than {LIMIT_S} s"
        return Line(label=job.label, round=number, tries=tries, failed=why, result=nothing)
    printed = ran.stdout.strip().splitlines()
    if ran.returncode or not printed:
        said = ran.stderr.strip().splitlines() or [""]
        why = f"exit code {ran.returncode}: {said[-1]}"
        return Line(label=job.label, round=number, tries=tries, failed=why, result=nothing)
    result = msgspec.Raw(printed[-1].encode())
    return Line(label=job.label, round=number, tries=tries, failed="", result=result)


def foreign_cores(line: Line) -> float:
    """Return how many cores others kept busy during a run."""
    return float(msgspec.json.decode(line.result)["foreign_cores"])
