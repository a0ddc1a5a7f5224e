"""Policy optimisation: memory of its roles, time of its parts, steps beside TRL's.

python -m benchmarks.bench_policy --data hh-harmless/harmless-base-test.jsonl.gz
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.command import arguments
from benchmarks.config import to_flags
from benchmarks.policy_report import policy, spliced
from benchmarks.policy_runs import PolicyConfig, material, memory_runs, step_runs, update_runs
from benchmarks.results import read_lines
from benchmarks.runner import Job, run_groups
from preftune.files import write_atomic


def main() -> None:
    """Run what is missing and write the page's section."""
    flags = arguments(__doc__)
    path = flags.results / "policy.jsonl"
    for groups, rounds, tries in (
        (step_runs(), flags.rounds, flags.tries),
        (update_runs(), flags.rounds, flags.tries),
        ([memory_runs()], 1, 1),  # whoever else is at work, the memory is the same
    ):
        kept = planned(groups, flags.only, quick=flags.quick)
        jobs = [[job(config, flags.data, flags.cache) for config in group] for group in kept]
        run_groups(jobs, rounds=rounds, path=path, most_tries=tries)
    flags.doc.parent.mkdir(parents=True, exist_ok=True)
    page = flags.doc.read_text(encoding="utf-8") if flags.doc.exists() else ""
    write_atomic(flags.doc, spliced(page, policy(read_lines(path))))
    print(f"written: {flags.doc}")


def planned(
    groups: Iterable[Sequence[PolicyConfig]], only: str, *, quick: bool
) -> list[list[PolicyConfig]]:
    """Return the configurations whose label has every word of `only`; the quick ones are small."""
    words = [word for word in only.split(",") if word]
    kept = [[c for c in group if all(w in c.label.split("-") for w in words)] for group in groups]
    if quick:
        kept = [[dataclasses.replace(c, model="S", steps=1, warmup=0) for c in g] for g in kept]
    return [group for group in kept if group]


def job(config: PolicyConfig, data: Path, cache: Path) -> Job:
    """Return the worker process of one configuration; its model and prompts are made first."""
    material(config, data, cache)
    places = ("--data", str(data), "--cache", str(cache))
    command = ("-m", "benchmarks.policy_worker", *to_flags(config), *places)
    return Job(label=config.label, command=command)


if __name__ == "__main__":
    main()
