"""The page's table of generation: new tokens per second of both sides."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.contests import Goal
from benchmarks.generate_worker import NEW_TOKENS, ROWS, GenerateConfig, GenerateResult
from benchmarks.tables import NOTHING, figure, judged, section

GENERATE_SPEED = Goal(must=1.7, aim=3.0)  # ours / the fastest setting of transformers


def generate_runs() -> list[list[GenerateConfig]]:
    """Return what takes turns: both sides on one model and as many replies to a prompt."""
    workloads = [
        GenerateConfig(side="ours", model="S", samples=1),
        GenerateConfig(side="ours", model="S", samples=8),
        GenerateConfig(side="ours", model="M", samples=1, epochs=1),
        GenerateConfig(side="ours", model="M", samples=8, epochs=1),
    ]
    return [
        [
            ours,
            replace(ours, side="transformers"),
            replace(ours, side="transformers", flags="static"),
            replace(ours, side="transformers", flags="eager"),
        ]
        for ours in workloads
    ]


def generation(found: dict[str, list[GenerateResult]]) -> str:
    """Return the table of new tokens per second."""
    rows = []
    for ours, *others in generate_runs():
        theirs = [found[other.label] for other in others if other.label in found]
        if ours.label not in found or not theirs:
            continue
        own, best = found[ours.label], max(theirs, key=rate)
        ratio = rate(own) / rate(best)
        rows.append(
            [
                f"{ours.model} {ours.precision}, n = {ours.samples}",
                f"{own[0].prompt_tokens:,}",
                cell(own),
                *(cell(found.get(other.label, [])) for other in others),
                f"**{ratio:.2f}**",
                *judged(GENERATE_SPEED, ratio),
            ]
        )
    head = ["workload", "prompt tokens", "ours", "transformers", "its static cache"]
    head += ["its plain attention", "ratio", "must", "aim", ""]
    text = (
        f"{ROWS} replies of {NEW_TOKENS} tokens in one batch, drawn at temperature 1 with nothing "
        "filtered out, to prompts of hh-harmless spread evenly over the lengths; n replies to each "
        "prompt. New tokens per second, prompts read included: median / peak MB / most cores that "
        "others kept busy in a run. The ratio is to the fastest setting of transformers."
    )
    return section("Generation", head, rows, text)


def cell(got: Sequence[GenerateResult]) -> str:
    """Return speed, memory and the load seen of one configuration as one cell."""
    if not got:
        return NOTHING
    peak_mb, load = max(one.peak_mb for one in got), max(one.foreign_cores for one in got)
    return f"{figure(rate(got))} / {peak_mb:,.0f} / {load:.2f}"


def rate(got: Sequence[GenerateResult]) -> float:
    """Return the median of new tokens per second over all timed epochs."""
    return statistics.median(speed for one in got for speed in one.tokens_per_s)
