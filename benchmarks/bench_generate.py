"""New tokens per second, ours beside transformers' own `generate`.

python -m benchmarks.bench_generate --data hh-harmless/harmless-base-test.jsonl.gz
"""

import dataclasses

from benchmarks.command import arguments, write_doc
from benchmarks.config import to_flags
from benchmarks.generate_worker import GenerateConfig, prompts_for
from benchmarks.report_generate import generate_runs
from benchmarks.runner import Job, run_groups


def main() -> None:
    """Run what is missing and write the page."""
    flags = arguments(__doc__)
    words = [word for word in flags.only.split(",") if word]
    places = ("--data", str(flags.data), "--cache", str(flags.cache))
    groups = []
    for group in generate_runs()[: 1 if flags.quick else None]:
        configs = [c for c in group if all(word in c.label.split("-") for word in words)]
        if flags.quick:
            configs = [dataclasses.replace(c, epochs=1, warmup=0) for c in configs]
        if configs:
            prompts_for(configs[0], flags.data, flags.cache)  # makes the model
        groups.append([job(config, places) for config in configs])
    path = flags.results / "generate.jsonl"
    run_groups(groups, rounds=flags.rounds, path=path, most_tries=flags.tries)
    write_doc(flags.results, flags.doc)


def job(config: GenerateConfig, places: tuple[str, ...]) -> Job:
    """Return the worker process of one configuration."""
    command = ("-m", "benchmarks.generate_worker", *to_flags(config), *places)
    return Job(label=config.label, command=command)


if __name__ == "__main__":
    main()
