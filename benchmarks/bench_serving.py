"""Chats answered per second: the generation process beside transformers' own `generate`.

python -m benchmarks.bench_serving --data hh-harmless/harmless-base-test.jsonl.gz
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.command import arguments
from benchmarks.config import to_flags
from benchmarks.contests import Goal
from benchmarks.results import read_lines, results_by_label
from benchmarks.runner import Job, run_groups
from benchmarks.serving_worker import NEW_TOKENS, ServingConfig, ServingResult, prompts_for
from benchmarks.tables import NOTHING, figure, judged, section
from preftune.files import write_atomic

SPEED = Goal(must=2.0, aim=4.0)  # tokens per second: ours at 16 at once / transformers in turn
DOC = Path("docs/serving-models.md")
BEGIN, END = "<!-- serving: begin -->", "<!-- serving: end -->"


def serving_runs() -> list[list[ServingConfig]]:
    """Return what takes turns: both sides on one model, and ours with fewer at once."""
    workloads = [
        ServingConfig(side="ours", model="S", epochs=3),
        ServingConfig(side="ours", model="M", epochs=1),
    ]
    return [
        [
            ours,
            replace(ours, side="transformers"),
            replace(ours, at_once=4),
            replace(ours, at_once=1),
            replace(ours, adapters=1),
            replace(ours, adapters=4),
        ]
        for ours in workloads
    ]


def main() -> None:
    """Run what is missing and write the table into the page."""
    flags = arguments(__doc__)
    words = [word for word in flags.only.split(",") if word]
    places = ("--data", str(flags.data), "--cache", str(flags.cache))
    groups = []
    for group in serving_runs()[: 1 if flags.quick else None]:
        configs = [c for c in group if all(word in c.label.split("-") for word in words)]
        if flags.quick:
            configs = [replace(c, epochs=1) for c in configs[:2]]
        if configs:
            prompts_for(configs[0], flags.data, flags.cache)  # makes the model
        groups.append([job(config, places) for config in configs])
    path = flags.results / "serving.jsonl"
    run_groups(groups, rounds=flags.rounds, path=path, most_tries=flags.tries)
    table = serving(results_by_label(read_lines(path), ServingResult))
    if flags.quick:
        print(table)
    else:
        write_atomic(DOC, spliced(DOC.read_text(encoding="utf-8"), table))
        print(f"written: {DOC}")


def job(config: ServingConfig, places: tuple[str, ...]) -> Job:
    """Return the worker process of one configuration."""
    command = ("-m", "benchmarks.serving_worker", *to_flags(config), *places)
    return Job(label=config.label, command=command)


def serving(found: dict[str, list[ServingResult]]) -> str:
    """Return the table of speeds and waiting times."""
    rows = []
    for group in serving_runs():
        theirs = next((c for c in group if c.side == "transformers"), None)
        for config in group:
            got = found.get(config.label)
            if not got:
                continue
            alone = found.get(theirs.label, []) if theirs and config is not theirs else []
            ratio = rate(got) / rate(alone) if alone else None
            judge = ratio is not None and config == group[0]
            rows.append(
                [
                    name_of(config),
                    f"{figure(rate(got))} / {max(one.peak_mb for one in got):,.0f} "
                    f"({max(one.foreign_cores for one in got):.2f})",
                    f"**{ratio:.2f}**" if ratio is not None else NOTHING,
                    *(judged(SPEED, ratio) if judge and ratio else judged(None, 0.0)),
                    seconds([s for one in got for s in one.first_s], 50),
                    seconds([s for one in got for s in one.whole_s], 50),
                    seconds([s for one in got for s in one.whole_s], 99),
                ]
            )
    head = ["who answers", "tokens/s / MB (load)", "to transformers", "must", "aim", ""]
    head += ["first token, s", "whole reply, s", "its p99"]
    text = (
        f"{NEW_TOKENS} new tokens a reply, drawn at temperature 1, fp32, to prompts of hh-harmless "
        "spread evenly over the lengths; 16 chats that arrive together. Tokens per second: median "
        "over all runs / peak MB of the process that computes (most cores that others kept busy). "
        "Waiting times are medians over all chats, from the moment all were sent; transformers "
        "answers them one after the other."
    )
    return section("Measured", head, rows, text)


def name_of(config: ServingConfig) -> str:
    """Return what the table calls a configuration."""
    if config.side == "transformers":
        return f"{config.model}: transformers, one after the other"
    adapters = {0: "", 1: ", all on one adapter"}.get(
        config.adapters, f", on {config.adapters} adapters in turn"
    )
    return f"{config.model}: {config.at_once} at once{adapters}"


def rate(got: Sequence[ServingResult]) -> float:
    """Return the median of new tokens per second over all timed epochs."""
    return statistics.median(speed for one in got for speed in one.tokens_per_s)


def seconds(values: Sequence[float], percent: float) -> str:
    """Return a percentile of waiting times."""
    return f"{np.percentile(values, percent):.2f}" if values else NOTHING


def spliced(page: str, table: str) -> str:
    """Return a page with the table between its marks."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    main()
