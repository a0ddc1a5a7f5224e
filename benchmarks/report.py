"""The page docs/performance.md, made from the results files and nothing else.

python -m benchmarks.report     writes it anew without running anything
"""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.floor import PEAKS, Peaks
from benchmarks.generate_worker import GenerateResult
from benchmarks.policy_report import policy
from benchmarks.prepare_worker import PrepareResult
from benchmarks.report_contests import floors, losses, memory, speed, totals
from benchmarks.report_generate import generation
from benchmarks.report_growth import lengths, levers, preparing
from benchmarks.results import Line, Result, Summary, read_lines, results_by_label, summary
from benchmarks.runner import MOST_FOREIGN_CORES
from benchmarks.tables import Found, figure, section
from preftune.files import write_atomic

INTRO = """\
# Performance

Preftune against TRL on the same machine. This page is written by `make bench-dpo`; do not edit it.

Both sides get the same random weights, the same pairs (hh-harmless, at most 512 tokens, spread
evenly over the lengths) and the same token ids, compared pair by pair before anything is timed.
8 pairs make an optimiser step; AdamW, learning rate 1e-6, clipping at 1. Each run is a process of
its own, sides take turns, and a figure is the median over all epochs after one that is not counted.
The reference pass is outside the pairs per second and inside "one epoch".

TRL's best settings on a CPU are micro-batches of 1 or 2 (mb1, mb2) with accumulation, the reference
computed before, no checkpointing, and the batches of like lengths that our side has, in the same
order; with its own grouping by a column of lengths it pads more ("grouped"). Its defaults are shown
too. The models are of the Llama type with tied embeddings: S 5.9M parameters (vocabulary 4,096),
M 107M (32,000), V 100M (151,936). LoRA has rank 16 on all linear layers."""


def report(folder: Path) -> str:
    """Return the whole page from `dpo.jsonl`, `length.jsonl` and `prepare.jsonl` of a folder."""
    lines = read_lines(folder / "dpo.jsonl")
    runs = [line for line in lines if not line.label.startswith(PEAKS)]
    found = summaries(runs)
    length_lines = read_lines(folder / "length.jsonl")
    prepare_lines = read_lines(folder / "prepare.jsonl")
    lever_lines = read_lines(folder / "levers.jsonl")
    generate_lines = read_lines(folder / "generate.jsonl")
    peaks = results_by_label((line for line in lines if line.label.startswith(PEAKS)), Peaks)
    sections = [
        INTRO,
        machine([*runs, *length_lines]),
        speed(found),
        totals(found),
        memory(found),
        floors(found, peaks),
        losses(found),
        levers(summaries(lever_lines)),
        lengths(summaries(length_lines)),
        preparing(results_by_label(prepare_lines, PrepareResult)),
        generation(results_by_label(generate_lines, GenerateResult)),
        policy(read_lines(folder / "policy.jsonl")),
        everything(found),
        failures([*lines, *lever_lines, *length_lines, *prepare_lines, *generate_lines]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summaries(lines: Iterable[Line]) -> Found:
    """Return the summary of each configuration, by label."""
    return {label: summary(got) for label, got in results_by_label(lines, Result).items()}


def machine(lines: Iterable[Line]) -> str:
    """Return what the runs were made on."""
    got = [result for results in results_by_label(lines, Result).values() for result in results]
    places = sorted({f"{r.processor}, {r.threads} threads" for r in got})
    versions = sorted({", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in got})
    if not got:
        return ""
    return "\n".join(
        ["Machine: " + "; ".join(places) + ".  ", "Versions: " + "; ".join(versions) + "."]
    )


def everything(found: Found) -> str:
    """Return the table of every configuration of the speed runs."""
    rows = [
        [
            f"`{label}`",
            figure(got.rate),
            f"{figure(got.slowest)}–{figure(got.fastest)}",
            str(got.epochs),
            f"{got.start_s:.2f}",
            f"{got.reference_s:.2f}",
            f"{got.peak_mb:,.0f}",
            f"{got.foreign_cores:.2f}" + (" (busy)" if busy(got) else ""),
        ]
        for label, got in sorted(found.items())
    ]
    head = [
        "configuration",
        "pairs/s",
        "range",
        "epochs",
        "start, s",
        "reference, s",
        "peak MB",
        "other load",
    ]
    text = (
        "Other load is how many cores other processes kept busy in the worst run; a run over "
        f"{MOST_FOREIGN_CORES} is repeated up to twice, then kept and marked."
    )
    return section("Every configuration", head, rows, text)


def failures(lines: Iterable[Line]) -> str:
    """Return what never ran to its end, with the reason."""
    lines = list(lines)
    done = {(line.label, line.round) for line in lines if not line.failed}
    why = {line.label: line.failed for line in lines if (line.label, line.round) not in done}
    return section("Failed", ["configuration", "why"], [[f"`{k}`", v] for k, v in why.items()])


def busy(got: Summary) -> bool:
    """Whether others used the cores during a run that counts."""
    return got.foreign_cores > MOST_FOREIGN_CORES


if __name__ == "__main__":
    write_atomic(Path("docs/performance.md"), report(Path("benchmarks/results")))
