"""One pair per step against sequence length, with and without recomputing layers.

python -m benchmarks.bench_length --data hh-harmless/harmless-base-test.jsonl.gz
"""

from benchmarks.command import arguments, jobs, planned, write_doc
from benchmarks.contests import length_runs
from benchmarks.runner import run_groups


def main() -> None:
    """Run what is missing and write the page."""
    flags = arguments(__doc__)
    groups = planned(length_runs(), flags.only, quick=flags.quick)[: 1 if flags.quick else None]
    run_groups(
        jobs(groups, data=flags.data, cache=flags.cache),
        rounds=flags.rounds,
        path=flags.results / "length.jsonl",
        most_tries=flags.tries,
    )
    write_doc(flags.results, flags.doc)


if __name__ == "__main__":
    main()
