"""docs/methods.md and its two images, from the runs of benchmarks.care_desk_methods."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.care_desk_found import (
    NEAR,
    Found,
    distance,
    fallen_below_start,
    gold_of,
    hump,
    in_time,
    near_rank,
)
from benchmarks.care_desk_runs import LOOK_PROMPTS, LOOKS_EVERY, PARTS, MethodRun, Point, WatchedRun
from benchmarks.machine import processor
from benchmarks.tables import NOTHING, section
from preftune.demo.tuning import TITLES
from preftune.evaluation.measures import Measure
from preftune.files import write_atomic
from preftune.plots import BLUE, COLOURS, GREEN, GREY, ORANGE, RED, figure, save
from preftune.stats.over_optimisation import Evaluation as Look
from preftune.stats.over_optimisation import Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_WIN, MOST_KL, FACTS_MARGIN, MOST_S = 0.80, 1.5, -0.02, 180.0
HONEST, SPOILT = "honest raters", "longer wins in half"
INTRO = """\
# The methods side by side

`python -m benchmarks.care_desk_methods --seeds 3` makes every figure on this page and writes it.
Which method to take is the subject of [which-method.md](which-method.md).

The world is the [care desk](demo.md): a model of 0.6M weights that knows 240 facts and answers in
mixed tone is to become warmer and keep its facts. All runs start from one SFT model. A seed draws
its own samples, SIMULATED labels, reward models and replies. What stands here of one small world
says how the tools behave, not how large models do."""


def meets(run: MethodRun) -> bool:
    """Whether a run wins enough, near enough, with its facts kept, in time."""
    near, kept = run.kl.value <= MOST_KL, run.facts_low > FACTS_MARGIN
    return run.win.value >= LEAST_WIN and near and kept and run.busy_s <= MOST_S


def write_page(found: Found, page: Path, *, images: Path) -> str:
    """Write page and images and return the page's text; what was not run is not on it."""
    methods = found.methods
    parts = [INTRO, _panels(found), _methods(methods), _by_seed(methods), _shares(methods)]
    at = images.relative_to(page.parent).as_posix()
    if found.points:
        save(_frontier_plot(found), images / "b1.svg")
        parts += [_frontier(found.points), f"![gold against distance]({at}/b1.svg)"]
    if found.hacked:
        save(_hacking_plot(found), images / "b2.svg")
        parts += [_hacking(found), f"![a reward being hacked]({at}/b2.svg)"]
    parts += [_stopping(found), f"Machine: {processor()}, one thread."]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_atomic(page, text)
    return text


def ranged(values: Sequence[float], form: str) -> str:
    """Return the mean, and the range in brackets where there are several values."""
    mean = format(fmean(values), form)
    return f"{mean} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else mean


def _panels(found: Found) -> str:
    rows = [
        [
            name,
            ranged([panel.pairs for panel in panels], ".0f"),
            ranged([panel.label_accuracy for panel in panels], ".3f"),
            ranged([panel.held_out.model.share for panel in panels], ".3f"),
            ranged([panel.held_out.length_only.share for panel in panels], ".3f"),
        ]
        for name, panels in ((HONEST, found.honest), (SPOILT, found.spoilt))
        if panels
    ]
    head = ["raters", "pairs", "labels right", "reward model right", "length alone right"]
    text = (
        "Shares of pairs, mean and range over seeds. The reward models are asked for true "
        "preferences on items that no rater saw."
    )
    return section("Labels and reward models", head, rows, text)


def _methods(runs: Sequence[MethodRun]) -> str:
    rows = [
        [
            method,
            ranged([run.win.value for run in of_one], ".3f"),
            f"{min(run.win.low or 0.0 for run in of_one):.3f}",
            ranged([100 * run.facts for run in of_one], "+.2f"),
            f"{min(100 * run.facts_low for run in of_one):+.2f}",
            ranged([run.kl.value for run in of_one], ".2f"),
            ranged([run.length_ratio for run in of_one], ".2f"),
            ranged([run.seconds for run in of_one], ".0f"),
            ranged([run.busy_s for run in of_one], ".0f"),
            f"{sum(map(meets, of_one))} of {len(of_one)}",
            _missed(of_one),
        ]
        for method, of_one in _by_method(runs)
    ]
    head = [
        "method",
        "win rate",
        "worst low end",
        "facts, points",
        "worst bound",
        "KL, nats",
        "length ratio",
        "tuning, s",
        "of them computing",
        "goal met",
        "gates missed, seeds",
    ]
    busiest = max((run.foreign_cores for run in runs), default=0.0)
    text = (
        "The settings and the proof are those of `preftune demo --method …`, on evaluation prompts "
        "in words never trained on; mean and range over seeds. The win rate is over the SFT model "
        "by true tone, its low end that of the 95 % interval over prompts; facts are the paired "
        "difference with its one-sided 95 % bound. Goal: win rate at least "
        f"{LEAST_WIN:g}, KL at most {MOST_KL:g}, facts bound above {100 * FACTS_MARGIN:g} points, "
        f"tuned within {MOST_S:.0f} s of computing. Others kept up to {busiest:.1f} cores "
        "busy meanwhile."
    )
    return section("Side by side", head, rows, text)


def _by_seed(runs: Sequence[MethodRun]) -> str:
    rows = [
        [
            method,
            f"{run.seed}",
            with_interval(run.win, ".3f"),
            f"{100 * run.facts:+.2f} ({100 * run.facts_low:+.2f})",
            with_interval(run.kl, ".2f"),
            f"{run.busy_s:.0f}",
            "yes" if meets(run) else "no",
        ]
        for method, of_one in _by_method(runs)
        for run in of_one
    ]
    head = [
        "method",
        "seed",
        "win rate",
        "facts (bound), points",
        "KL, nats",
        "computing, s",
        "goal",
    ]
    text = (
        "The settings of RLOO and PPO were chosen by their figures on these prompts at seed 0. "
        "Seeds 1 and 2 had no part in it: they are the honest ones."
    )
    return section("Seed by seed", head, rows, text)


def with_interval(measure: Measure, form: str) -> str:
    """Return a figure with its 95 % interval in brackets, where it has one."""
    if measure.low is None or measure.high is None:
        return format(measure.value, form)
    return f"{measure.value:{form}} ({measure.low:{form}} to {measure.high:{form}})"


def _missed(runs: Sequence[MethodRun]) -> str:
    """Return each gate that was missed, with how many seeds missed it."""
    names = [name for run in runs for name in run.missed]
    return ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names))) or "none"


def _shares(runs: Sequence[MethodRun]) -> str:
    rows = []
    for method, of_one in _by_method(runs):
        shown = [
            ranged([100 * run.parts[part] for run in of_one], ".0f")
            if all(part in run.parts for run in of_one)
            else NOTHING
            for part in PARTS
        ]
        early = sum(bool(run.ended) for run in of_one)
        steps = ranged([run.steps for run in of_one], ".0f")
        if set(shown) != {NOTHING}:
            rows.append([method, steps, f"{early} of {len(of_one)}", *shown])
    head = ["method", "steps", "ended early", *(f"{part}, %" for part in PARTS)]
    text = (
        "Share of the time in steps. `rollout` draws replies and scores them by the reward model, "
        "`score` is log-probs and values before the update, `watch` the looks at fresh samples."
    )
    return section("Where the time of a step goes", head, rows, text)


def _frontier(points: Sequence[Point]) -> str:
    rows = []
    for line in _lines(points):
        own = [point for point in points if point.line == line]
        far = max(own, key=lambda point: point.gold)
        rows.append(
            [line, str(len(own)), f"{far.gold:+.2f} at KL {far.kl:.2f} ({far.name})", _rho(own)]
        )
    head = ["line", "points", "most gold", f"rank correlation below KL {NEAR:g}"]
    seeds = sorted({point.seed for point in points})
    by_seed = ", ".join(_rho(point for point in points if point.seed == seed) for seed in seeds)
    text = (
        "B1. True quality gained over the SFT model (tone, less 3 points where facts are wrong) "
        "against the distance travelled. DPO at beta 0.03 to 1 without and with NLL, every look of "
        "an RLOO run that has a leash but no limit on KL, best of 2, 4 and 8. The KL of best-of-n "
        "is an **upper bound**, all others are sampled. Spearman correlation of √KL and gold below "
        f"KL {NEAR:g}, all lines together, seed by seed: {by_seed} (expected above 0.8); over all "
        f"seeds {_rho(points)}."
    )
    return section("How much is gained for how much KL", head, rows, text)


def _rho(points: Iterable[Point]) -> str:
    found = near_rank(points)
    return NOTHING if found is None else f"{found:.2f}"


def _hacking(found: Found) -> str:
    rows = []
    for run in found.hacked:
        shape, start, end = hump(run), run.looks[0], run.looks[-1]
        under = fallen_below_start(run)
        rows.append(
            [
                f"{run.seed}",
                f"{start.proxy:.2f} → {end.proxy:.2f}",
                f"{shape.proxy_rank:.2f}",
                f"{gold_of(start):.2f}",
                f"{gold_of(shape.peak):.2f} (step {shape.peak.step}, KL {shape.peak.kl:.2f})",
                NOTHING if under is None else f"step {under.step}",
                f"{gold_of(end):.2f} (KL {end.kl:.0f})",
                NOTHING if shape.fall_rank is None else f"{shape.fall_rank:.2f}",
                _fitted(shape.law),
            ]
        )
    head = [
        "seed",
        "proxy",
        "rank with step",
        "gold at start",
        "gold at its peak",
        "under its start from",
        "gold at the end",
        "rank with step after",
        "law: a, b, KL at its peak, R²",
    ]
    text = (
        "B2. RLOO with `kl_coef` 0 (the settings of `preftune demo --method rloo --sabotage "
        "beta-0-rl`), looked at every few steps and stopped by nobody. The proxy is a reward model "
        "made of the honest pairs and of as many in which the longer reply won whatever it said. "
        "Gold is the true quality, as the audit sees it: tone, less 3 points where facts are "
        "wrong. Law: gold = d (a − b ln d) over its start, d = √KL (Gao et al. 2023). Pairs, "
        "learning rate and how often to look were chosen on seed 0, so that gold falls, and not "
        "all of the way between two looks; seeds 1 and 2 had no part in it."
    )
    return section("A reward being hacked", head, rows, text)


def _fitted(law: Law | None) -> str:
    if law is None:
        return NOTHING
    top = "none" if law.peak is None else f"{law.peak**2:.1f}"
    return f"{law.a:.2f}, {law.b:.2f}, {top}, {law.r2:.2f}"


def _stopping(found: Found) -> str:
    runs = [(f"{SPOILT}, no leash", run) for run in found.stopped]
    runs += [(f"{HONEST}, the demo's leash", run) for run in found.clean]
    rows = []
    for name, run in runs:
        stop = next((look for look in run.looks if look.step == run.stopped), None)
        rows.append(
            [
                name,
                f"{run.seed}",
                "not stopped" if stop is None else f"step {stop.step}",
                f"{gold_of(run.looks[0]):.2f}",
                f"{gold_of(stop or run.looks[-1]):.2f}",
                f"step {run.published}",
                f"{run.gold.value:+.2f} ({run.gold.low:+.2f} to {run.gold.high:+.2f})",
                f"{run.kl.value:.2f}",
            ]
        )
    head = [
        "reward model",
        "seed",
        "alarm",
        "gold at start",
        "gold at the stop or end",
        "published",
        "gold gained by what is published",
        "its KL",
    ]
    text = (
        "The same runs with `stop_on_alarm`, and clean ones as a control, looked at every "
        f"{LOOKS_EVERY} steps on {LOOK_PROMPTS} prompts. What is published is "
        "measured anew, on two draws of replies to all evaluation prompts that have a tone. "
        f"Without a leash {share(run.stopped is not None for run in found.stopped)} runs were "
        f"stopped, {sum(map(in_time, found.stopped))} of them before gold was under its start; "
        f"gold went under it unstopped in {sum(map(_missed_stop, found.stopped))}. Of the clean "
        f"runs {share(run.stopped is not None for run in found.clean)} were stopped. The "
        "alarm was not changed for these runs."
    )
    return section("Stopped in time", head, rows, text)


def _missed_stop(run: WatchedRun) -> bool:
    return run.stopped is None and fallen_below_start(run) is not None


def share(facts: Iterable[bool]) -> str:
    """Return how many are true, of how many."""
    given = list(facts)
    return f"{sum(given)} of {len(given)}"


def _frontier_plot(found: Found) -> "Figure":
    drawn, (axis, *_) = figure(width=6.4, height=4.0)
    for line, colour, mark in zip(_lines(found.points), COLOURS, "osD^v", strict=False):
        own = [point for point in found.points if point.line == line]
        for seed in sorted({point.seed for point in own}):
            path = sorted((distance(p.kl), p.gold) for p in own if p.seed == seed)
            label = line if seed == own[0].seed else None
            x, y = zip(*path, strict=True)
            axis.plot(x, y, f"{mark}-", color=colour, markersize=4, linewidth=0.8, label=label)
    axis.set_xlabel("√KL, KL in nats a reply (best-of-n: upper bound)", fontsize=8)
    axis.set_ylabel("gold gained over SFT, points", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return drawn


def _hacking_plot(found: Found) -> "Figure":
    drawn, (left, right) = figure(columns=2, width=9.0, height=3.6)
    _draw(left, found.hacked, BLUE, "proxy", lambda look: look.proxy)
    _draw(left, found.hacked, RED, "gold", gold_of)
    _draw(left, found.clean, GREEN, "gold of the clean run", gold_of)
    for run in found.stopped:
        if run.stopped is not None:
            left.axvline(run.stopped, color=GREY, linestyle=":")
    left.set_xlabel("step (dotted: the alarm stops the run)", fontsize=8)
    left.legend(fontsize=8, frameon=False)
    for run in found.hacked:
        law, start = hump(run).law, gold_of(run.looks[0])
        d = [distance(look.kl) for look in run.looks]
        right.plot(d, [gold_of(look) - start for look in run.looks], "o", color=RED, markersize=3)
        if law is not None:
            grid = [max(d) * place / 200 for place in range(201)]
            right.plot(grid, law.at(grid), color=ORANGE, linewidth=0.8)
    right.set_xscale("symlog", linthresh=1.0)
    right.set_xlabel("√KL (lines: d (a − b ln d))", fontsize=8)
    right.set_ylabel("gold over its start, points", fontsize=8)
    return drawn


def _draw(
    axis: "Axes",
    runs: Sequence[WatchedRun],
    colour: str,
    label: str,
    value: Callable[[Look], float],
) -> None:
    """Draw a figure of all looks against the step, one line per run."""
    for place, run in enumerate(runs):
        steps, values = [look.step for look in run.looks], [value(look) for look in run.looks]
        named = label if place == 0 else None
        axis.plot(steps, values, color=colour, linewidth=1.0, label=named)


def _lines(points: Iterable[Point]) -> list[str]:
    return list(dict.fromkeys(point.line for point in points))


def _by_method(runs: Sequence[MethodRun]) -> Iterator[tuple[str, list[MethodRun]]]:
    order = list(TITLES)
    ordered = sorted(runs, key=lambda run: (order.index(run.method), run.seed))
    for method, of_one in groupby(ordered, key=lambda run: run.method):
        yield method, list(of_one)
