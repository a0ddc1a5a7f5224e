"""What each lever of the engine gives: our side as it is, and with one thing taken away or added.

python -m benchmarks.bench_levers --data hh-harmless/harmless-base-test.jsonl.gz --only S,fp32
"""

from benchmarks.command import arguments, jobs, planned, write_doc
from benchmarks.contests import lever_runs
from benchmarks.runner import run_groups


def main() -> None:
    """Run what is missing and write the page."""
    flags = arguments(__doc__)
    groups = planned(lever_runs(), flags.only, quick=flags.quick)[: 1 if flags.quick else None]
    run_groups(
        jobs(groups, data=flags.data, cache=flags.cache),
        rounds=flags.rounds,
        path=flags.results / "levers.jsonl",
        most_tries=flags.tries,
    )
    write_doc(flags.results, flags.doc)


if __name__ == "__main__":
    main()
