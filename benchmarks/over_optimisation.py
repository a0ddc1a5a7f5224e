"""Two ways to be gamed less on the care desk: labels on fresh samples, and reward models that vote.

    python -m benchmarks.over_optimisation --seeds 3

`b5` spends 900 labels on samples of the SFT model, or 300 after 300 on samples of the policy as it
is. `b8` picks the best of 64 replies by one reward model and by four, a quarter of whose labels is
wrong. Starts from the SFT model and the labels of `benchmarks.care_desk_methods`; runs whose JSON
file lies in --out are not made again. Writes docs/over-optimisation.md and its images.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.care_desk_found import read_runs
from benchmarks.care_desk_jobs import Job, parsed, run_all
from benchmarks.over_optimisation_report import write_page
from benchmarks.over_optimisation_runs import ARMS, ArmRun, EnsembleRun, run_arm, run_ensemble

PARTS = ("b5", "b8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, then write the page."""
    asked = parsed(arguments, about=__doc__, parts=PARTS)
    root, page, images = run_all(jobs(asked.only), asked)
    arms = read_runs(root, "b5-*", ArmRun)
    votes = read_runs(root, "b8", EnsembleRun)
    print(write_page(arms, votes, page / "over-optimisation.md", images=images))


def jobs(parts: Sequence[str]) -> Iterator[Job]:
    """Yield the runs of the parts."""
    if "b5" in parts:
        for arm in ARMS:
            yield Job(name=f"b5-{arm.replace(' ', '-')}", make=partial(run_arm, arm=arm))
    if "b8" in parts:
        yield Job(name="b8", make=run_ensemble)


if __name__ == "__main__":
    main()
