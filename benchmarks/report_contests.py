"""The page's tables of the contests: speed, one epoch, memory, the floor, the losses."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.contests import CONTESTS, WORST_LOSS_DIFFERENCE, loss_runs
from benchmarks.floor import PEAKS, Peaks, floor_pairs_per_s
from benchmarks.results import Summary
from benchmarks.tables import NOTHING, Found, bars, figure, judged, known, rate_of, section, setting


def speed(found: Found) -> str:
    """Return the table of pairs per second, ours against TRL's fastest."""
    rows = []
    for contest in CONTESTS:
        ours = found.get(contest.ours.label)
        default = found.get(contest.default.label)
        for rivals, goal, extra in (
            (contest.rivals, contest.speed, ""),
            (contest.thp_rivals, contest.thp_speed, ", huge pages for TRL"),
        ):
            if ours is None or not known(found, rivals):
                continue
            best = max(known(found, rivals), key=rate_of)
            slow = ours.rate / default.rate if default and not extra else None
            rows.append(
                [
                    contest.name + extra,
                    figure(ours.rate),
                    f"{figure(best.rate)} ({setting(best.config)})",
                    f"**{ours.rate / best.rate:.2f}**",
                    *judged(goal, ours.rate / best.rate),
                    NOTHING if slow is None else f"{slow:.1f}",
                ]
            )
    head = [
        "workload",
        "ours, pairs/s",
        "TRL's best",
        "ratio",
        "must",
        "aim",
        "",
        "ratio to default",
    ]
    return section("Speed", head, rows)


def totals(found: Found) -> str:
    """Return the table of one epoch from loaded libraries on."""
    rows = []
    for contest in CONTESTS:
        ours = found.get(contest.ours.label)
        rivals = known(found, contest.rivals)
        if ours is None or not rivals:
            continue
        best = min(rivals, key=lambda rival: rival.total_s)
        ratio = best.total_s / ours.total_s
        rows.append(
            [
                contest.name,
                f"{ours.reference_s:.2f} / {ours.start_s:.2f} / {ours.total_s:.2f}",
                f"{best.reference_s:.2f} / {best.start_s:.2f} / {best.total_s:.2f}",
                f"**{ratio:.2f}**",
                *judged(contest.total, ratio),
            ]
        )
    head = ["workload", "ours, s", "TRL's best, s", "ratio", "must", "aim", ""]
    text = "Seconds of the reference pass / of all before the first step / to the end of one epoch."
    return section("One epoch, loading, tokens and reference included", head, rows, text)


def memory(found: Found) -> str:
    """Return the table of peak memory, ours against TRL's leanest."""
    rows = []
    for contest in CONTESTS:
        own = known(found, [contest.ours, contest.lean])
        rivals = known(found, [*contest.rivals, contest.default])
        if not own or not rivals:
            continue
        ours = min(own, key=lambda way: way.peak_mb)
        lean = min(rivals, key=lambda rival: rival.peak_mb)
        ratio = ours.peak_mb / lean.peak_mb
        verdict = contest.memory.verdict_at_most(ratio) if contest.memory else ""
        rows.append(
            [
                contest.name,
                " / ".join(f"{way.peak_mb:,.0f} ({figure(way.rate)})" for way in own),
                f"{lean.peak_mb:,.0f} ({setting(lean.config)})",
                f"**{ratio:.2f}**",
                *bars(contest.memory),
                verdict,
            ]
        )
    head = [
        "workload",
        "ours, MB (pairs/s): whole step / two pairs a forward",
        "TRL's leanest, MB",
        "ratio",
        "must",
        "aim",
        "",
    ]
    return section("Peak memory of the process", head, rows)


def floors(found: Found, peaks: dict[str, list[Peaks]]) -> str:
    """Return the table of shares of the lean floor."""
    rows = []
    for contest in CONTESTS:
        ours = found.get(contest.ours.label)
        measured = peaks.get(PEAKS + contest.ours.label, [])
        if ours is None or not measured or contest.method == "rm" or contest.mode == "lora":
            continue
        peak = median_peaks(measured)
        limit = floor_pairs_per_s(
            contest.model,
            contest.precision,
            gflop=ours.lean_gflop,
            pairs_per_step=contest.ours.pairs_per_step,
            peaks=peak,
        )
        rivals = known(found, contest.rivals)
        share = share_of_floor(ours, peak)
        rows.append(
            [
                contest.name,
                f"{peak.bf16_gflops if contest.precision == 'bf16' else peak.fp32_gflops:,.0f}",
                f"{peak.read_gb_s:.0f}",
                f"{ours.lean_gflop:.1f}",
                figure(limit),
                f"{max(map(rate_of, rivals)) / limit:.1%}" if rivals else NOTHING,
                f"**{share:.1%}**",
                *judged(contest.floor, share),
            ]
        )
    head = [
        "workload",
        "GFLOP/s",
        "GB/s",
        "GFLOP/pair",
        "floor, pairs/s",
        "TRL's best",
        "ours",
        "must",
        "aim",
        "",
    ]
    text = (
        "The floor is the time of the matrix products that cannot be left out (prompt once, head "
        "on responses only, reference known) at this machine's speed, and of the optimiser's "
        "memory traffic; both speeds were measured between the runs of the same contest. A shared "
        "machine's speed changes within seconds: our share is the median over epochs, each against "
        "the products timed right before and after it."
    )
    return section("Share of the floor", head, rows, text)


def share_of_floor(ours: Summary, peak: Peaks) -> float:
    """Return which share of the floor's speed a configuration reaches."""

    def limit(peaks: Peaks) -> float:
        return floor_pairs_per_s(
            ours.config.model,
            ours.config.precision,
            gflop=ours.lean_gflop,
            pairs_per_step=ours.config.pairs_per_step,
            peaks=peaks,
        )

    if not ours.beside:
        return ours.rate / limit(peak)
    return statistics.median(
        rate / limit(replace(peak, fp32_gflops=speed, bf16_gflops=speed))
        for rate, speed in ours.beside
    )


def median_peaks(measured: Sequence[Peaks]) -> Peaks:
    """Return the median of each speed."""
    return Peaks(
        fp32_gflops=statistics.median(p.fp32_gflops for p in measured),
        bf16_gflops=statistics.median(p.bf16_gflops for p in measured),
        read_gb_s=statistics.median(p.read_gb_s for p in measured),
        foreign_cores=max(p.foreign_cores for p in measured),
    )


def losses(found: Found) -> str:
    """Return the table of loss differences on the same batches in fp32."""
    rows = []
    for ours_config, trl_config in loss_runs():
        ours, trl = found.get(ours_config.label), found.get(trl_config.label)
        if ours is None or trl is None:
            continue
        worst = worst_difference(ours.losses, trl.losses)
        verdict = "met" if worst <= WORST_LOSS_DIFFERENCE else "**missed**"
        name = f"{ours_config.model} {ours_config.method.upper()} {ours_config.mode} fp32"
        rows.append([name, str(len(ours.losses)), f"{worst:.1e}", verdict])
    head = [
        "workload",
        "steps",
        "largest relative difference",
        f"at most {WORST_LOSS_DIFFERENCE:.0e}",
    ]
    text = "The same batches in the same order on both sides, learning rate 1e-4."
    return section("The same losses", head, rows, text)


def worst_difference(ours: Sequence[float], trl: Sequence[float]) -> float:
    """Return the largest relative difference of two equally long lists of losses."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, trl, strict=True))
