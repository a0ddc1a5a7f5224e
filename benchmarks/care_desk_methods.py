"""The methods side by side on the care desk, how far each goes for how much, and a hacked reward.

    python -m benchmarks.care_desk_methods --seeds 3
    python -m benchmarks.care_desk_methods --seeds 1 --only rloo,b2

One SFT model; per seed labels, a clean reward model and one that can be gamed. Then each method
with the settings of `preftune demo` (dpo, rloo, ppo, online-dpo, best-of-n), `b1` (gold against
KL) and `b2` (RLOO without a leash). Runs whose JSON file lies in --out are not made again. Writes
docs/methods.md and its images from all that lies there; with --quick beside the runs, as figures
of a tenth of the work prove nothing.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

from benchmarks.care_desk_found import read_found
from benchmarks.care_desk_jobs import Job, parsed, run_all
from benchmarks.care_desk_report import write_page
from benchmarks.care_desk_runs import run_best_of_n, run_dpo, run_method, run_watched
from preftune.demo.tuning import TITLES

PARTS = (*TITLES, "b1", "b2")
BETAS = (0.03, 0.1, 0.3, 1.0)
NLL_WEIGHTS = (0.0, 0.2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, then write the page."""
    asked = parsed(arguments, about=__doc__, parts=PARTS)
    root, page, images = run_all(jobs(asked.only), asked)
    print(write_page(read_found(root), page / "methods.md", images=images))


def jobs(parts: Sequence[str]) -> Iterator[Job]:
    """Yield the runs of the parts."""
    spoilt = partial(Job, panel="beta-0-rl")
    if "b2" in parts:
        yield spoilt(name="stopped", make=partial(run_watched, stop_on_alarm=True))
    if "b1" in parts or "b2" in parts:
        yield Job(name="clean", make=partial(run_watched, stop_on_alarm=True))
    if "b2" in parts:
        yield spoilt(name="hacked", make=partial(run_watched, stop_on_alarm=False))
    for method in (method for method in TITLES if method in parts):
        yield Job(name=f"method-{method}", make=partial(run_method, method=method))
    if "b1" in parts:
        yield Job(name="b1-best-of", make=run_best_of_n)
        for nll, beta in product(NLL_WEIGHTS, BETAS):
            name = f"b1-dpo-{beta:g}-nll-{nll:g}"
            yield Job(name=name, make=partial(run_dpo, beta=beta, nll_weight=nll))


if __name__ == "__main__":
    main()
