"""The page's tables of growth: sequence length, and rows to prepare."""

import statistics
from collections.abc import Sequence

from benchmarks.config import LEVERS
from benchmarks.contests import (
    LENGTH_MEMORY,
    LENGTH_SPEED,
    PREPARE_SPEED,
    length_runs,
    lever_runs,
)
from benchmarks.prepare_worker import PrepareResult
from benchmarks.results import Summary
from benchmarks.tables import NOTHING, Found, figure, judged, known, rate_of, section

GOAL_ROWS = 10_000


def levers(found: Found) -> str:
    """Return the table of what each lever gives."""
    rows = []
    for whole, *others in lever_runs():
        usual = found.get(whole.label)
        for one in others if usual else ():
            if (changed := found.get(one.label)) is None or usual is None:
                continue
            rows.append(
                [
                    f"{one.model} {one.precision}",
                    LEVERS[one.flags],
                    figure(changed.rate),
                    f"**{changed.rate / usual.rate:.2f}**",
                    f"{changed.peak_mb:,.0f}",
                    f"{changed.peak_mb / usual.peak_mb:.2f}",
                ]
            )
    head = ["workload", "changed", "pairs/s", "of ours", "peak MB", "of ours"]
    text = (
        "Our side with one thing taken away or added: its share of the speed and of the memory of "
        "our side as it is, runs of both taking turns. Under 1 in speed, the lever pays."
    )
    return section("Each lever by itself", head, rows, text)


def lengths(found: Found) -> str:
    """Return the table of one pair per step against sequence length."""
    rows = []
    for group in length_runs():
        ours, trl = (
            known(found, [config for config in group if config.side == side])
            for side in ("ours", "trl")
        )
        if not ours or not trl:
            continue
        ratio = max(map(rate_of, ours)) / max(map(rate_of, trl))
        share = min(s.peak_mb for s in ours) / min(s.peak_mb for s in trl)
        whole = all(config.label in found for config in group)
        goal = whole and group[0].length == 8192 and group[0].model == "S"
        verdicts = (LENGTH_SPEED.verdict(ratio), LENGTH_MEMORY.verdict_at_most(share))
        rows.append(
            [
                f"{group[0].model} {group[0].length:,} {group[0].precision}",
                *(step_and_memory(found.get(config.label)) for config in group),
                f"**{ratio:.2f}**",
                f"**{share:.2f}**",
                "speed {}, memory {}".format(*verdicts) if goal else "",
            ]
        )
    head = [
        "tokens",
        "ours",
        "TRL",
        "ours, recomputing",
        "TRL, checkpointed",
        "speed",
        "memory",
        "",
    ]
    text = (
        "Seconds per step / peak MB. Speed is ours to TRL at the faster setting of each, "
        "memory at the leaner; judged where all four were measured. "
        f"At 8,192 tokens S must have {LENGTH_SPEED.must:g} and {LENGTH_MEMORY.must:g}."
    )
    return section("One pair per step against its length", head, rows, text)


def step_and_memory(got: Summary | None) -> str:
    """Return the seconds per pair and the memory of a configuration as one cell."""
    return NOTHING if got is None else f"{1 / got.rate:.2f} / {got.peak_mb:,.0f}"


def preparing(found: dict[str, list[PrepareResult]]) -> str:
    """Return the table of the time from a file to token ids."""
    rows = []
    for count in sorted({got[0].config.rows for got in found.values()}):
        labels = ("ours-prepare-{}-p1", "ours-prepare-{}-p1-kept", "trl-prepare-{}-p1")
        ours, kept, trl = (found.get(label.format(count), []) for label in labels)
        trl_of_two = found.get(f"trl-prepare-{count}-p2", [])
        if not ours or not trl_of_two:
            continue
        ratio = prepare_s(trl_of_two) / prepare_s(ours)
        rows.append(
            [
                f"{count:,}",
                *map(prepare_cell, (ours, kept, trl, trl_of_two)),
                f"**{ratio:.2f}**",
                *judged(PREPARE_SPEED if count == GOAL_ROWS else None, ratio),
            ]
        )
    head = ["rows", "ours", "ours, ids kept", "TRL", "TRL, 2 processes", "ratio", "must", "aim", ""]
    text = (
        "From a file to token ids: seconds / seconds since the process started, libraries "
        "included / peak MB, TRL's own worker processes left out. The ratio is TRL with 2 "
        "processes to ours; with ids kept, an earlier run has tokenised the same rows."
    )
    return section("Preparing rows", head, rows, text)


def prepare_cell(got: Sequence[PrepareResult]) -> str:
    """Return time and memory of one way to prepare rows as one cell."""
    if not got:
        return NOTHING
    start_s = statistics.median(result.start_s for result in got)
    peak_mb = max(result.peak_mb for result in got)
    return f"{prepare_s(got):.2f} / {start_s:.2f} / {peak_mb:,.0f}"


def prepare_s(got: Sequence[PrepareResult]) -> float:
    """Return the median seconds from a file to token ids."""
    return statistics.median(result.prepare_s for result in got)
