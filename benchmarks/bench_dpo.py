"""DPO and reward models against TRL: speed, memory, the reference pass, losses, the floor.

python -m benchmarks.bench_dpo --data hh-harmless/harmless-base-test.jsonl.gz
"""

from benchmarks.command import arguments, jobs, planned, write_doc
from benchmarks.contests import CONTESTS, loss_runs
from benchmarks.floor import PEAKS
from benchmarks.runner import Job, run_groups


def with_peaks(group: list[Job]) -> list[Job]:
    """Return the jobs of a contest and, behind the first, one that measures the machine's speed.

    A shared machine's speed changes from hour to hour: a share of the floor wants both at a time.
    """
    peaks = Job(label=f"{PEAKS}{group[0].label}", command=("-m", "benchmarks.floor"))
    return [group[0], peaks, *group[1:]]


def main() -> None:
    """Run what is missing and write the page."""
    flags = arguments(__doc__)
    path = flags.results / "dpo.jsonl"
    places = {"data": flags.data, "cache": flags.cache}
    speed = planned([contest.runs for contest in CONTESTS], flags.only, quick=flags.quick)
    losses = planned(loss_runs(), flags.only, quick=flags.quick)
    for groups, rounds in (
        (jobs(losses, **places), 1),
        (map(with_peaks, jobs(speed, **places)), flags.rounds),
    ):
        run_groups(list(groups), rounds=rounds, path=path, most_tries=flags.tries)
    write_doc(flags.results, flags.doc)


if __name__ == "__main__":
    main()
