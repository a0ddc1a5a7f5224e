"""docs/over-optimisation.md and its two images, from the runs of benchmarks.over_optimisation."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.care_desk_report import ranged, share, with_interval
from benchmarks.machine import processor
from benchmarks.over_optimisation_runs import (
    ARMS,
    BEST_OF,
    FLIPPED,
    LABELS,
    MEAN,
    MEMBERS,
    ROUNDS,
    SINGLE,
    WORST,
    ArmRun,
    EnsembleRun,
    Picked,
)
from benchmarks.tables import section
from preftune.evaluation.measures import Measure
from preftune.files import write_atomic
from preftune.plots import COLOURS, figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTRO = """\
# Getting more of what is meant

`python -m benchmarks.over_optimisation --seeds 3` makes every figure on this page and writes it.

A reward model is right about the replies it was taught on, and about others less. A policy that
learns from it moves away from the former. What that looks like when nobody stops it, and how it is
stopped, is on [another page](methods.md#a-reward-being-hacked). Here are two ways to be misled
less: label what the policy writes now, and ask several reward models. The world is the
[care desk](demo.md), gold its true quality: tone, less 3 points where facts are wrong. All labels
are SIMULATED."""


def write_page(
    arms: Sequence[ArmRun], votes: Sequence[EnsembleRun], page: Path, *, images: Path
) -> str:
    """Write page and images and return the page's text; what was not run is not on it."""
    parts, at = [INTRO], images.relative_to(page.parent).as_posix()
    if arms:
        save(arms_plot(arms), images / "b5.svg")
        parts += [online_section(arms), f"![gold by where the labels were spent]({at}/b5.svg)"]
    if votes:
        save(votes_plot(votes), images / "b8.svg")
        parts += [votes_section(votes), f"![gold against n by who chooses]({at}/b8.svg)"]
    parts.append(f"Machine: {processor()}, one thread.")
    text = "\n\n".join(parts) + "\n"
    write_atomic(page, text)
    return text


def online_section(arms: Sequence[ArmRun]) -> str:
    """Return B5 as a table of every run, with how often fresh samples won."""
    rows = [
        [
            run.arm,
            f"{run.seed}",
            f"{run.labels}",
            f"{run.pairs}",
            f"{run.label_accuracy:.3f}",
            with_interval(run.gold, "+.2f"),
            f"{100 * run.facts:+.2f}",
            with_interval(run.kl, ".2f"),
        ]
        for run in _in_order(arms)
    ]
    head = ["labels on", "seed", "labels", "pairs", "pairs right"]
    head += ["gold gained", "facts, points", "KL, nats"]
    text = (
        f"B5. Each policy has {ROUNDS * LABELS} comparisons to spend, judged by the demo's three "
        "raters, and learns from them by the demo's DPO (beta 0.1, NLL 0.2, 2 epochs). `offline`: "
        "two samples of the SFT model to each prompt, one run. `online`: "
        f"{ROUNDS} rounds of {LABELS}; each labels samples of the policy as it is, and starts from "
        "it with it as the reference. `offline in rounds` does the same on samples of the SFT "
        "model, so that nothing but the freshness of the samples differs from `online`. Gold is "
        "counted from the SFT model, two draws of replies to all evaluation prompts with a tone; "
        "KL is to the SFT model. Online gained more than offline in "
        f"{share(wins(arms, 'offline'))} seeds, more than offline in rounds in "
        f"{share(wins(arms, 'offline in rounds'))}."
    )
    return section("The same number of labels, on fresh samples", head, rows, text)


def wins(arms: Sequence[ArmRun], other: str) -> list[bool]:
    """Return for each seed that has both whether the online policy gained more than another."""
    gold = {(run.arm, run.seed): run.gold.value for run in arms}
    return [
        gold["online", run.seed] > run.gold.value
        for run in arms
        if run.arm == other and ("online", run.seed) in gold
    ]


def votes_section(votes: Sequence[EnsembleRun]) -> str:
    """Return B8 as a table of gold by rule and n, and whether the order is the expected one."""
    rules = _rules(votes)
    rows = [[rule, *_along(votes, lambda one: one.gold, rule)] for rule in rules]
    rows += [[f"{rule}: own score", *_along(votes, lambda one: one.proxy, rule)] for rule in rules]
    last = max(BEST_OF)
    members = [right for run in votes for right in run.right]
    text = (
        f"B8. {MEMBERS} reward models differ in nothing but their seed (order of the pairs, new "
        f"head); {FLIPPED:.0%} of the demo's pairs were turned round. They are right in "
        f"{ranged(members, '.3f')} of true preferences on items that no rater saw. {last} replies "
        f"of the SFT model to each of {votes[0].prompts} evaluation prompts; gold of the best of "
        "n, unbiased for every n, mean and range over seeds. `one model` is the mean over the "
        "four, each choosing alone. A model's score has mean 0 and standard deviation 1 over "
        f"responses of its own pairs. At n {last}, with 95 % intervals over prompts: "
        f"{_gaps(votes)}. Expected was worst of 4 ≥ mean of 4 ≥ one model; met by "
        f"{share(_as_expected(run) for run in votes)} seeds."
    )
    return section("Several reward models", ["who chooses", *map(str, BEST_OF)], rows, text)


def _along(votes: Sequence[EnsembleRun], value: Callable[[Picked], float], rule: str) -> list[str]:
    return [ranged([value(at(run, rule, n)) for run in votes], ".2f") for n in BEST_OF]


def at(run: EnsembleRun, rule: str, n: int) -> Picked:
    """Return what the best of n by a rule was worth."""
    return next(one for one in run.picked if (one.rule, one.n) == (rule, n))


def _as_expected(run: EnsembleRun) -> bool:
    one, mean, worst = (at(run, rule, max(BEST_OF)).gold for rule in (SINGLE, MEAN, WORST))
    return worst >= mean >= one


def _gaps(votes: Sequence[EnsembleRun]) -> str:
    return "; ".join(
        f"seed {run.seed}: mean over one {with_interval(run.mean_over_single, '+.2f')}, "
        f"worst over mean {with_interval(run.worst_over_mean, '+.2f')}"
        for run in votes
    )


def _rules(votes: Sequence[EnsembleRun]) -> list[str]:
    return list(dict.fromkeys(one.rule for run in votes for one in run.picked))


def _in_order(arms: Iterable[ArmRun]) -> list[ArmRun]:
    return sorted(arms, key=lambda run: (ARMS.index(run.arm), run.seed))


def arms_plot(arms: Sequence[ArmRun]) -> "Figure":
    """Return gold against the distance travelled, a point per run with its interval."""
    drawn, (axis, *_) = figure(width=5.4, height=3.4)
    for arm, colour in zip(ARMS, COLOURS, strict=False):
        own = [run for run in arms if run.arm == arm]
        far = [max(run.kl.value, 0.0) ** 0.5 for run in own]
        for x, run in zip(far, own, strict=True):
            axis.plot([x, x], _ends(run.gold), color=colour, linewidth=1)
        axis.plot(far, [run.gold.value for run in own], "o", color=colour, markersize=4, label=arm)
    axis.set_xlabel("√KL to the SFT model, KL in nats a reply", fontsize=8)
    axis.set_ylabel("gold gained over SFT, points", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return drawn


def _ends(measure: Measure) -> list[float]:
    """Return the interval, or the value twice where it has none."""
    return [measure.value if end is None else end for end in (measure.low, measure.high)]


def votes_plot(votes: Sequence[EnsembleRun]) -> "Figure":
    """Return gold against n, a thin line per seed and a thick one for their mean."""
    drawn, (axis, *_) = figure(width=5.4, height=3.4)
    for rule, colour in zip(_rules(votes), COLOURS, strict=False):
        lines = [[at(run, rule, n).gold for n in BEST_OF] for run in votes]
        for line in lines:
            axis.plot(BEST_OF, line, color=colour, linewidth=0.5, alpha=0.5)
        means = [fmean(values) for values in zip(*lines, strict=True)]
        axis.plot(BEST_OF, means, "o-", color=colour, markersize=3, label=rule)
    axis.set_xscale("log", base=2)
    axis.set_xticks(BEST_OF, [str(n) for n in BEST_OF])
    axis.set_xlabel("best of n", fontsize=8)
    axis.set_ylabel("gold, points", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return drawn
