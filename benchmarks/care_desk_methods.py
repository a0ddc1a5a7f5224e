"""The methods side by side on the care desk, how far each goes for how much, and a hacked reward.

    python -m benchmarks.care_desk_methods --seeds 3
    python -m benchmarks.care_desk_methods --seeds 1 --only rloo,b2

One SFT model; per seed labels, a clean reward model and one that loves length. Then each method
with the settings of `preftune demo` (dpo, rloo, ppo, online-dpo, best-of-n), `b1` (gold against
KL) and `b2` (RLOO without a leash). Runs whose JSON file lies in --out are not made again. Writes
docs/methods.md and its images from all that lies there; with --quick beside the runs, as figures
of a tenth of the work prove nothing.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.care_desk_found import read_found
from benchmarks.care_desk_report import write_page
from benchmarks.care_desk_runs import (
    Desk,
    Labels,
    make_once,
    run_best_of_n,
    run_dpo,
    run_method,
    run_watched,
)
from preftune.demo.settings import DemoSettings, Sabotage
from preftune.demo.tuning import TITLES

PARTS = (*TITLES, "b1", "b2")
BETAS = (0.03, 0.1, 0.3, 1.0)
NLL_WEIGHTS = (0.0, 0.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A run of every seed: whose labels it starts from, and what makes it in a folder."""

    name: str
    panel: Sabotage = "none"
    make: Callable[[Labels, Path], object]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, then write the page."""
    asked = parsed(arguments)
    root = asked.out / "quick" if asked.quick else asked.out
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        s = DemoSettings(
            out=root / f"seed-{seed}", seed=seed, quick=asked.quick, threads=asked.threads
        )
        run_seed(s, list(jobs(asked.only)))
    page, images = (root, root) if asked.quick else (Path("docs"), Path("docs/images"))
    print(write_page(read_found(root), page / "methods.md", images=images))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags; unknown parts end the program."""
    about, formatter = __doc__, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=formatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--out", type=Path, default=Path("build/care-desk"))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    asked.only = asked.only.split(",")
    if unknown := [part for part in asked.only if part not in PARTS]:
        parser.error(f"--only {unknown[0]}: no such part. Use some of {', '.join(PARTS)}.")
    return asked


def jobs(parts: Sequence[str]) -> Iterator[Job]:
    """Yield the runs of the parts, those with honest raters first."""
    for method in TITLES:
        if method in parts:
            yield Job(name=f"method-{method}", make=partial(run_method, method=method))
    if "b1" in parts or "b2" in parts:
        yield Job(name="clean", make=partial(run_watched, stop_on_alarm=True))
    if "b1" in parts:
        yield Job(name="b1-best-of", make=run_best_of_n)
        for nll, beta in product(NLL_WEIGHTS, BETAS):
            name = f"b1-dpo-{beta:g}-nll-{nll:g}"
            yield Job(name=name, make=partial(run_dpo, beta=beta, nll_weight=nll))
    if "b2" in parts:
        for name, stop in (("stopped", True), ("hacked", False)):
            make = partial(run_watched, stop_on_alarm=stop)
            yield Job(name=name, panel="beta-0-rl", make=make)


def run_seed(s: DemoSettings, asked: Sequence[Job]) -> None:
    """Make the runs of one seed that are missing."""
    missing = [job for job in asked if not (s.out / f"{job.name}.json").exists()]
    if not missing:
        return
    desk = Desk.of(s)
    for panel in dict.fromkeys(job.panel for job in missing):
        labels = Labels.of(desk, panel)
        for job in missing:
            if job.panel == panel:
                make_once(s.out / f"{job.name}.json", partial(job.make, labels))
                print(f"seed {s.seed}: {job.name} done", flush=True)


if __name__ == "__main__":
    main()
