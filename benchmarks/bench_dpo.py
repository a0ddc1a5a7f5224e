"""DPO and reward models against TRL: speed, memory, the reference pass, losses, the floor.

python -m benchmarks.bench_dpo --data hh-harmless/harmless-base-test.jsonl.gz
"""

from benchmarks.command import arguments, jobs, planned, write_doc
from benchmarks.contests import CONTESTS, loss_runs
from benchmarks.runner import Job, run_groups

PEAKS = Job(label="peaks", command=("-m", "benchmarks.floor"))


def main() -> None:
    """Run what is missing and write the page."""
    flags = arguments(__doc__)
    path = flags.results / "dpo.jsonl"
    places = {"data": flags.data, "cache": flags.cache}
    speed = planned([contest.runs for contest in CONTESTS], flags.only, quick=flags.quick)
    losses = planned(loss_runs(), flags.only, quick=flags.quick)
    for groups, rounds in (
        ([[PEAKS]], flags.rounds),
        (jobs(losses, **places), 1),
        (jobs(speed, **places), flags.rounds),
    ):
        run_groups(groups, rounds=rounds, path=path, most_tries=flags.tries)
    write_doc(flags.results, flags.doc)


if __name__ == "__main__":
    main()
