"""From a file of 1,000 to 100,000 pairs to token ids: time and memory.

python -m benchmarks.bench_prepare --data hh-harmless/harmless-base-test.jsonl.gz
"""

from benchmarks.command import arguments, write_doc
from benchmarks.config import to_flags
from benchmarks.prepare_worker import PrepareConfig, rows_file
from benchmarks.runner import Job, run_groups

ROWS = (1000, 10_000, 100_000)


def configs(rows: int) -> list[PrepareConfig]:
    """Return both sides: ours without and with ids kept, TRL with one process and with two."""
    return [
        PrepareConfig(side="ours", rows=rows),
        PrepareConfig(side="ours", rows=rows, kept=True),
        PrepareConfig(side="trl", rows=rows),
        PrepareConfig(side="trl", rows=rows, processes=2),
    ]


def main() -> None:
    """Run what is missing and write the page."""
    flags = arguments(__doc__)
    places = ("--data", str(flags.data), "--cache", str(flags.cache))
    groups = []
    for rows in ROWS[: 1 if flags.quick else None]:
        rows_file(rows, flags.data, flags.cache)
        groups.append(
            [
                Job(
                    label=config.label,
                    command=("-m", "benchmarks.prepare_worker", *to_flags(config), *places),
                )
                for config in configs(rows)
                if all(word in config.label.split("-") for word in flags.only.split(",") if word)
            ]
        )
    path = flags.results / "prepare.jsonl"
    run_groups(groups, rounds=flags.rounds, path=path, most_tries=flags.tries)
    write_doc(flags.results, flags.doc)


if __name__ == "__main__":
    main()
