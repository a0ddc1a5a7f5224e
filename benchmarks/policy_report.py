"""The page's section on policy optimisation: memory, parts of a step, the update, TRL beside it."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.policy_runs import (
    EVEN,
    NEW_TOKENS,
    RATIO_TO_COPIES,
    RATIO_TO_SFT,
    STEP_SPEED,
    UPDATE_SPEED,
    PolicyConfig,
    PolicyResult,
    memory_runs,
    step_runs,
    update_runs,
)
from benchmarks.results import Line, results_by_label
from benchmarks.tables import NOTHING, figure, judged, section

BEGIN, END = "<!-- policy optimisation: begin -->", "<!-- policy optimisation: end -->"
Found = dict[str, list[PolicyResult]]  # by label, one for each round
NAMES = {
    "sft": "SFT, LoRA",
    "ppo": "PPO, four roles in one copy",
    "apart": "the same, a base for each role",
    "full": "PPO, four copies, all weights trained",
}
INTRO = f"""\
## Policy optimisation

Written by `python -m benchmarks.bench_policy`; do not edit it. Each run is a process of its own,
{NEW_TOKENS} new tokens at the most, fp32, AdamW at a constant rate of 1e-6; models and machine as
above. A figure is the median over the runs of a configuration, and the load in brackets how many
cores others kept busy in the worst of them."""


def policy(lines: Iterable[Line]) -> str:
    """Return the section between its marks; an empty text without results."""
    lines = list(lines)
    found = results_by_label(lines, PolicyResult)
    parts = [
        machine(found),
        memory(found),
        steps(found),
        shares(found),
        updates(found),
        failures(lines),
    ]
    told = [part for part in parts if part]
    return "\n\n".join([BEGIN, INTRO, *told, END]) if told else ""


def spliced(page: str, part: str) -> str:
    """Return a page with the section in place of the one it has, or at its end."""
    if not part:
        return page
    if BEGIN not in page:
        return page.rstrip("\n") + ("\n\n" if page else "") + part + "\n"
    before, rest = page.split(BEGIN, 1)
    return before + part + rest.split(END, 1)[1]


def machine(found: Found) -> str:
    """Return what the runs were made on, and how many threads they had."""
    every = [one for got in found.values() for one in got]
    threads = sorted({one.threads for one in every})
    places = sorted({one.processor for one in every})
    heard = [one.foreign_cores for one in every]
    return (
        f"Machine: {'; '.join(places)}; threads: {' or '.join(map(str, threads))}. Others kept "
        f"{min(heard):.2f} to {max(heard):.2f} cores busy."
        if every
        else ""
    )


def memory(found: Found) -> str:
    """Return the table of peak memory: PPO beside LoRA SFT and beside four copies."""
    rows = []
    for config in (one for model in ("M", "S") for one in of_model(memory_runs(), model)):
        if config.label in found:
            kin = dataclasses.replace(config, minibatches=1, weights="lora")
            one_copy = dataclasses.replace(kin, method="sft", updates=1)
            four = dataclasses.replace(kin, method="ppo", updates=2, weights="full")
            peak = peak_mb(found[config.label])
            judge = config.label == dataclasses.replace(kin, method="ppo", updates=2).label
            rows.append(
                [
                    f"{config.model}: {name_of(config)}",
                    f"{config.responses // config.minibatches}",
                    f"{peak:,.0f}",
                    *against(found, one_copy, peak, RATIO_TO_SFT.verdict_at_most, judge=judge),
                    *against(found, four, peak, RATIO_TO_COPIES.verdict_at_most, judge=judge),
                ]
            )
    head = ["run", "responses a forward", "peak MB"]
    head += ["to LoRA SFT", f"at most {RATIO_TO_SFT.must:g}"]
    head += ["to four copies", f"at most {RATIO_TO_COPIES.must:g}"]
    text = (
        f"8 sequences a step, prompts of about {EVEN} tokens. The reward model is an adapter and a "
        "head on the policy's base, or a copy of its own; LoRA has rank 16. A base for each role: "
        "three more copies of the base held in memory, the least that four adapters apart take. "
        "With freed memory returned to the kernel a process holds its tensors without the holes "
        "between them. Verdicts are for as many responses per forward."
    )
    return smaller(section("Memory of the roles", head, rows, text))


def steps(found: Found) -> str:
    """Return the table of seconds per step beside TRL's."""
    rows = []
    for ours, *rivals in step_runs():
        theirs = [found[rival.label] for rival in rivals if rival.label in found]
        if ours.label not in found or not theirs:
            continue
        plain = [got for got in theirs if not got[0].config.thp]
        huge = [got for got in theirs if got[0].config.thp]
        own, best = found[ours.label], min(plain or theirs, key=step_s)
        ratio = step_s(best) / step_s(own)
        rows.append(
            [
                f"{ours.method.upper()} {ours.model}, {ours.prompts} prompts x {ours.samples}",
                cell(own),
                f"{cell(best)}, {setting(best[0].config)}",
                f"**{ratio:.2f}**",
                *judged(STEP_SPEED, ratio),
                f"{step_s(min(huge, key=step_s)) / step_s(own):.2f}" if huge else NOTHING,
                f"{new_tokens(own):.0f} / {new_tokens(best):.0f}",
            ]
        )
    head = ["workload", "ours, s a step", "TRL's best", "ratio", "must", "aim", ""]
    head += ["ratio with huge pages for TRL", "new tokens a step"]
    text = (
        "Drawing, scoring and update; prompts of hh-harmless spread evenly over the lengths, the "
        "same ones in the same order on both sides; the reward is the number of characters. "
        "Seconds / peak MB (load)."
    )
    return smaller(section("A step beside TRL's", head, rows, text))


def shares(found: Found) -> str:
    """Return the table of what the time of a step goes into."""
    rows = []
    memory_models = [of_model(memory_runs(), model) for model in ("M", "S")]
    groups = [*update_runs(), *memory_models, *step_runs()]
    for config in (one for group in groups for one in group):
        got = found.get(config.label, [])
        if not got or not got[0].measured.parts_s or config.returned:
            continue
        parts = {name: share(got, name) for name in ("rollout", "reward", "score", "update")}
        rows.append(
            [
                f"{config.method.upper()} {config.model} {config.weights}, {config.prompts} x "
                f"{config.samples}, {config.updates} x {config.minibatches} updates",
                cell(got),
                *(f"{part:.0%}" for part in parts.values()),
                f"{1 - sum(parts.values()):.0%}",
            ]
        )
    head = ["run", "s a step", "drawing", "reward", "log-probs, values", "update", "rest"]
    text = (
        "Shares of the seconds of a step. PPO's reward model is one of the size of the policy; the "
        "others count characters."
    )
    return smaller(section("What a step's time goes into", head, rows, text))


def updates(found: Found) -> str:
    """Return the table of trained tokens per second, beside DPO's on the same prompts."""
    rows = []
    for dpo, *others in update_runs():
        if dpo.label not in found:
            continue
        base = update_rate(found[dpo.label])
        rows.append([*row_of_update(found[dpo.label]), NOTHING, NOTHING, NOTHING, ""])
        for config in others:
            if config.label in found:
                ratio = update_rate(found[config.label]) / base
                cells = [f"**{ratio:.2f}**", *judged(UPDATE_SPEED, ratio)]
                rows.append([*row_of_update(found[config.label]), *cells])
    head = ["run", "tokens of the stream", "passes", "tokens/s", "to DPO", "must", "aim", ""]
    text = (
        "Two responses to each of 8 prompts, a prompt read once for both, as pairs are in DPO: "
        "tokens through forward and backward per second of update, the optimiser included. PPO "
        "goes through them twice in each pass: policy and value model."
    )
    return smaller(section("The update beside DPO's", head, rows, text))


def failures(lines: Sequence[Line]) -> str:
    """Return what never ran to its end, with the reason."""
    done = {(line.label, line.round) for line in lines if not line.failed}
    why = {line.label: line.failed for line in lines if (line.label, line.round) not in done}
    rows = [[f"`{label}`", reason] for label, reason in why.items()]
    return smaller(section("Failed", ["configuration", "why"], rows))


def smaller(text: str) -> str:
    """Return a section one level down."""
    return f"#{text}" if text else ""


def of_model(configs: Iterable[PolicyConfig], model: str) -> list[PolicyConfig]:
    """Return the same runs on another model, and as short as they were made."""
    return [dataclasses.replace(config, model="M" if model == "M" else "S") for config in configs]


def name_of(config: PolicyConfig) -> str:
    """Return what the table of memory calls a run."""
    name = NAMES[config.method if config.weights == "lora" else config.weights]
    return f"{name}, freed memory returned" if config.returned else name


def against(
    found: Found,
    other: PolicyConfig,
    peak: float,
    verdict: Callable[[float], str],
    *,
    judge: bool,
) -> list[str]:
    """Return the ratio of a peak to that of another run, and the verdict where there is one."""
    if other.label not in found:
        return [NOTHING, NOTHING]
    ratio = peak / peak_mb(found[other.label])
    return [f"**{ratio:.2f}**", verdict(ratio)] if judge else [f"{ratio:.2f}", NOTHING]


def setting(config: PolicyConfig) -> str:
    """Return what the table calls a setting of TRL."""
    what = "prompts" if config.method == "online" else "responses"
    return f"{config.micro or 'all'} {what} a forward"


def cell(got: Sequence[PolicyResult]) -> str:
    """Return seconds per step, memory and load of a configuration."""
    load = max(one.foreign_cores for one in got)
    return f"{figure(step_s(got))} / {peak_mb(got):,.0f} ({load:.2f})"


def row_of_update(got: Sequence[PolicyResult]) -> list[str]:
    """Return the first cells of a row on updates."""
    config, measured = got[0].config, got[0].measured
    name = f"{config.method.upper()} {config.model} {config.weights}"
    cells = [f"{measured.stream_tokens:,.0f}", str(config.passes)]
    return [name, *cells, figure(update_rate(got))]


def peak_mb(got: Sequence[PolicyResult]) -> float:
    """Return the peak memory of the worst round."""
    return max(one.peak_mb for one in got)


def step_s(got: Sequence[PolicyResult]) -> float:
    """Return the mean seconds of a step, the median over rounds.

    The steps of a round are of unlike length, and the same ones in every round and on both sides.
    """
    return statistics.median(statistics.fmean(one.measured.step_s) for one in got)


def new_tokens(got: Sequence[PolicyResult]) -> float:
    """Return the tokens written in a step, the mean over rounds."""
    return statistics.fmean(one.measured.new_tokens for one in got)


def share(got: Sequence[PolicyResult], part: str) -> float:
    """Return the share of a part in the time of all steps, the median over rounds."""
    return statistics.median(
        sum(one.measured.parts_s.get(part, [])) / sum(one.measured.step_s) for one in got
    )


def update_rate(got: Sequence[PolicyResult]) -> float:
    """Return the tokens through forward and backward per second of update, median over rounds."""
    return statistics.median(
        one.config.passes
        * one.measured.stream_tokens
        / statistics.fmean(one.measured.parts_s.get("update", one.measured.step_s))
        for one in got
    )
