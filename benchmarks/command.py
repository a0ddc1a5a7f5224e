"""What the three bench commands share: their flags, and what they do after the runs."""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.config import RunConfig, chosen, to_flags
from benchmarks.report import report
from benchmarks.runner import Job
from preftune.files import write_atomic

QUICK = Path("build/bench-quick")


def arguments(description: str | None) -> argparse.Namespace:
    """Return the parsed flags; `--quick` sends everything it writes to a folder of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="hh-harmless, or other pairs")
    parser.add_argument("--cache", type=Path, help="folder of models and drawn pairs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--doc", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--only", default="", help="words of the labels, as in S,bf16,full")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each configuration")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    found = parser.parse_args()
    if found.quick:
        found.results, found.doc, found.rounds = QUICK, QUICK / "performance.md", 1
    found.tries = 1 if found.quick else 3
    if found.cache is None:
        from benchmarks.models import default_cache

        found.cache = default_cache()
    return found


def planned(
    groups: Iterable[Sequence[RunConfig]], only: str, *, quick: bool
) -> list[list[RunConfig]]:
    """Return the groups with the configurations asked for; the quick ones are S, one epoch."""
    kept = [chosen(group, f"{only},S" if quick else only) for group in groups]
    if quick:
        kept = [[dataclasses.replace(c, epochs=1, warmup=0) for c in group] for group in kept]
    return [group for group in kept if group]


def jobs(groups: Iterable[Sequence[RunConfig]], *, data: Path, cache: Path) -> list[list[Job]]:
    """Return the worker processes of groups of configurations; models and pairs are made first."""
    from benchmarks.data import workload

    found = []
    for group in groups:
        for config in group:
            workload(config, data, cache)
        found.append([job(config, data, cache) for config in group])
    return found


def job(config: RunConfig, data: Path, cache: Path) -> Job:
    """Return the worker process of one configuration."""
    places = ("--data", str(data), "--cache", str(cache))
    return Job(label=config.label, command=("-m", "benchmarks.worker", *to_flags(config), *places))


def write_doc(results: Path, doc: Path) -> None:
    """Write the page from all results there are, and say where it is."""
    doc.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(doc, report(results))
    print(f"written: {doc}")
