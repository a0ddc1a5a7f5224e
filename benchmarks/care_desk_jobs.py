"""What the care desk's commands share: their flags, and runs of all seeds, each made once."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.care_desk_runs import Labels, Start, make_once
from preftune.demo.settings import DemoSettings, Sabotage

DOCS, IMAGES = Path("docs"), Path("docs/images")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A run of every seed: whose labels it starts from, and what makes it in a folder."""

    name: str
    panel: Sabotage = "none"
    make: Callable[[Labels, Path], object]


def parsed(
    arguments: Sequence[str] | None, *, about: str | None, parts: Sequence[str]
) -> argparse.Namespace:
    """Return the flags; unknown parts end the program."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=formatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(parts), help=f"some of {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--out", type=Path, default=Path("build/care-desk"))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    asked.only = asked.only.split(",")
    if unknown := [part for part in asked.only if part not in parts]:
        parser.error(f"--only {unknown[0]}: no such part. Use some of {', '.join(parts)}.")
    return asked


def run_all(jobs: Iterable[Job], asked: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Make the runs that are missing, one of all seeds before the next.

    Returns:
        The folder of the runs, of the page and of its images. The page of --quick is no
        documentation and lies beside its runs.
    """
    root = asked.out / "quick" if asked.quick else asked.out
    starts = [
        Start(
            s=DemoSettings(
                out=root / f"seed-{seed}", seed=seed, quick=asked.quick, threads=asked.threads
            )
        )
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds)
    ]
    for job, start in product(jobs, starts):
        run_job(job, start)
    return (root, root, root) if asked.quick else (root, DOCS, IMAGES)


def run_job(job: Job, start: Start) -> None:
    """Make a run of one seed, unless it was made before."""
    path = start.s.out / f"{job.name}.json"
    if not path.exists():
        make_once(path, partial(job.make, start.labels(job.panel)))
        print(f"seed {start.s.seed}: {job.name} done", flush=True)
