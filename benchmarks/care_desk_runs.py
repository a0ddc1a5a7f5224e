"""The runs behind docs/methods.md: labels and reward models of one seed, and what is tuned on them.

Each run leaves one JSON file beside its folder. A run whose file is there is not made again; one
that was broken off is made anew, so that its time is that of one run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.machine import Load
from preftune.datasets import write_records
from preftune.demo import labelling, proof
from preftune.demo.labelling import Labelled
from preftune.demo.pipeline import GATES, QUICK_SHARE, REWARD_OPTIMIZER
from preftune.demo.prompts import tag
from preftune.demo.settings import DemoSettings, Method, Sabotage
from preftune.demo.teaching import teach
from preftune.demo.tuning import Tuning, dpo_settings, rloo_settings, tune
from preftune.demo.world import MAX_REPLY_TOKENS, CareDesk
from preftune.evaluation.evaluate import Evaluation, write_evaluation
from preftune.evaluation.gate import gate, read_suite, write_gate
from preftune.evaluation.kl import kl_measure
from preftune.evaluation.measures import Measure, mean_measure
from preftune.files import delete_folder, write_json
from preftune.inference.backend import load_generator
from preftune.inference.best_of_n_run import Job, best_of_n_file
from preftune.inference.reward_scorer import load_scorer
from preftune.responses.generator import GenerateSettings
from preftune.stats.over_optimisation import Evaluation as Look
from preftune.stats.over_optimisation import best
from preftune.training import direct, reward, rft
from preftune.training.held_out import HeldOut, read_held_out
from preftune.training.logs import read_rows
from preftune.training.method_settings import RewardSettings
from preftune.training.policy_settings import KlLimits, WatchSettings
from preftune.training.settings import RunSettings
from preftune.training.watch import looks as looks_in
from preftune.types import Prompt

BEST_OF = (2, 4, 8)
LOOKS_EVERY, LOOK_PROMPTS = 2, 100
ENDED = "ended early: "  # begins the warning that says why a run stopped
PARTS = ("rollout", "score", "update", "watch")  # columns of timing.jsonl


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRun:
    """One method on one seed: what the demo's own proof says, and what it took."""

    method: Method
    seed: int
    win: Measure
    facts: float  # share of right answers gained, negative when lost
    facts_low: float  # one-sided 95 % bound
    kl: Measure
    length_ratio: float
    missed: tuple[str, ...]  # gates that it did not pass
    steps: int
    ended: str  # why the run stopped itself, "" if it went to its end
    seconds: float  # of the tuning, models loaded and looks included
    busy_s: float  # of these, seconds that the processor worked for it
    parts: dict[str, float]  # share of the time in steps
    foreign_cores: float  # that others kept busy meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A policy somewhere between the SFT model and as much reward as there is."""

    line: str
    name: str
    seed: int
    kl: float  # nats a reply to a prompt with a tone: sampled; best-of-n: an upper bound
    gold: float  # true quality gained over the SFT model, points


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedRun:
    """A run of RLOO looked at every few steps."""

    seed: int
    looks: tuple[Look, ...]
    ended: str  # why it stopped itself, "" if it went to its end
    stopped: int | None  # the step whose look ended it
    published: int  # the step whose weights were kept
    kl: Measure  # of the published model
    gold: Measure  # its true quality, less that of the SFT model


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """What raters made of the samples, and the reward model that came of it."""

    seed: int
    pairs: int
    label_accuracy: float  # share of the pairs whose chosen reply truly is better
    held_out: HeldOut  # against true preferences on items that no rater saw


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What all runs of one seed start from."""

    world: CareDesk
    s: DemoSettings
    sft: Path
    prompts: list[Prompt]
    before: proof.Answers

    @classmethod
    def of(cls, s: DemoSettings) -> "Desk":
        """Return the desk, its SFT model taught or from the cache, and that model's replies."""
        world = CareDesk()
        s.out.mkdir(parents=True, exist_ok=True)
        sft = teach(world, s)
        prompts = world.eval_prompts()[:: QUICK_SHARE if s.quick else 1]
        return cls(
            world=world,
            s=s,
            sft=sft,
            prompts=prompts,
            before=proof.answer(sft, "sft", prompts, s.out),
        )

    def toned(self) -> list[Prompt]:
        """Return the evaluation prompts whose replies have a tone."""
        return [p for p in self.prompts if tag(p, "kind") in proof.TONE_KINDS]

    def gained(self, after: proof.Answers) -> Measure:
        """Return the true quality of replies less that of the SFT model's, prompt by prompt."""
        toned = {p.id for p in self.toned()}
        old, new = (
            [response for response in answers.all if response.prompt_id in toned]
            for answers in (self.before, after)
        )
        gains = proof.quality_gains(self.world, self.prompts, list(zip(old, new, strict=True)))
        return mean_measure("gold", gains, [response.prompt_id for response in new], unit="points")

    def kl(self, after: proof.Answers, prompts: Sequence[Prompt]) -> Measure:
        """Return the sampled KL of a model by the replies that it gave to these prompts."""
        asked = {p.id: p for p in prompts}
        return kl_measure(
            after.generator.model,
            self.before.generator.model,
            after.generator.chat,
            prompts=asked,
            responses=[r for r in after.all if r.prompt_id in asked],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Labelled pairs of one panel of raters, and the reward model trained on them."""

    desk: Desk
    s: DemoSettings
    labelled: Labelled
    pairs: Path
    reward: Path

    @classmethod
    def of(cls, desk: Desk, sabotage: Sabotage = "none") -> "Labels":
        """Return the labels and the reward model; `beta-0-rl` adds pairs that long won."""
        folder = desk.s.out / f"labels-{sabotage}"
        folder.mkdir(exist_ok=True)
        s = replace(desk.s, out=folder, method="rloo", sabotage=sabotage)
        labelled = labelling.sample_and_label(desk.world, desk.before.generator, s, print)
        pairs, held_out = folder / "pairs.jsonl", folder / "gold_pairs.jsonl"
        write_records(pairs, labelled.pairs, format="preftune")
        truth = labelling.held_out_pairs(desk.world, desk.prompts, *desk.before.files)
        write_records(held_out, truth, format="preftune")
        model = reward.train(
            RewardSettings(
                model=str(desk.sft),
                data=pairs,
                held_out=held_out,
                optimizer=REWARD_OPTIMIZER,
                run=RunSettings(out=folder / "reward", seed=s.seed, threads=s.threads),
            )
        )
        labels = cls(desk=desk, s=s, labelled=labelled, pairs=pairs, reward=model)
        write_json(desk.s.out / f"{folder.name}.json", labels.panel())
        return labels

    def panel(self) -> Panel:
        """Return how good labels and reward model are."""
        return Panel(
            seed=self.s.seed,
            pairs=len(self.labelled.pairs),
            label_accuracy=self.labelled.label_accuracy,
            held_out=read_held_out(self.s.out / "reward"),
        )

    def tuning(self, method: Method, folder: Path) -> Tuning:
        """Return what a method starts from, to work in a folder of its own."""
        return Tuning(
            world=self.desk.world,
            s=replace(self.s, out=folder, method=method),
            sft=self.desk.sft,
            pairs=self.pairs,
            reward=self.reward,
        )


@dataclass(kw_only=True, slots=True)
class Start:
    """What the runs of one seed start from, each part made when it is first asked for."""

    s: DemoSettings
    _desk: Desk | None = None
    _labels: dict[Sabotage, Labels] = field(default_factory=dict)

    def labels(self, panel: Sabotage) -> Labels:
        """Return the labels of a panel of raters and their reward model."""
        self._desk = self._desk or Desk.of(self.s)
        if panel not in self._labels:
            self._labels[panel] = Labels.of(self._desk, panel)
        return self._labels[panel]


def make_once(path: Path, make: Callable[[Path], object]) -> None:
    """Write what `make` returns into a JSON file, unless it is there; its folder is made anew."""
    if path.exists():
        return
    folder = path.parent / path.stem
    if folder.exists():
        delete_folder(folder)
    folder.mkdir(parents=True)
    write_json(path, make(folder))


def run_method(labels: Labels, folder: Path, *, method: Method) -> MethodRun:
    """Tune by a method as `preftune demo` does, and prove it by the demo's own gates."""
    desk, load = labels.desk, Load()
    began, busy = time.perf_counter(), time.process_time()
    model = tune(labels.tuning(method, folder))
    seconds, busy_s = time.perf_counter() - began, time.process_time() - busy
    foreign_cores = load.foreign_cores()
    evaluation = proof.prove(
        desk.world,
        desk.prompts,
        baseline=desk.before,
        candidate=proof.answer(model, "tuned", desk.prompts, folder),
        labelled=labels.labelled,
        run=folder / method if method == "dpo" else None,
    )
    write_evaluation(folder / "evaluation.json", evaluation)
    facts, measures = evaluation.check("facts"), evaluation.all_measures()
    if facts is None:
        raise RuntimeError(f"{folder}: the proof has no check of facts. Add it to demo.proof.")
    return MethodRun(
        method=method,
        seed=labels.s.seed,
        win=measures["win_rate"],
        facts=facts.overall.difference.difference,
        facts_low=facts.overall.difference.low,
        kl=measures["kl"],
        length_ratio=measures["length_ratio"].value,
        missed=missed_gates(evaluation, folder),
        steps=len(read_rows(folder / method / "metrics.jsonl")),
        ended=ended(folder / method)[0],
        seconds=seconds,
        busy_s=busy_s,
        parts=shares(folder / method),
        foreign_cores=foreign_cores,
    )


def missed_gates(evaluation: Evaluation, folder: Path) -> tuple[str, ...]:
    """Return the gates of the demo that the candidate did not pass; keep the whole report."""
    suite, rules = read_suite(GATES)
    if "displacement" not in evaluation.all_measures():  # a figure of runs on pairs alone
        rules = tuple(rule for rule in rules if rule.name != "displacement")
    verdict = gate(evaluation, rules, suite=suite)
    write_gate(folder / "gate.json", verdict)
    return tuple(f"{result.name} ({result.outcome})" for result in verdict.missed())


def shares(run: Path) -> dict[str, float]:
    """Return the share of the time in steps that each part took; only parts there were."""
    rows = read_rows(run / "timing.jsonl")
    whole = sum(row["seconds"] for row in rows)
    spent = {part: sum(row.get(part, 0.0) for row in rows) for part in PARTS}
    return {part: seconds / whole for part, seconds in spent.items() if seconds}


def ended(run: Path) -> tuple[str, int | None]:
    """Return why a run stopped itself and at which step; ("", None) if it went to its end."""
    for row in read_rows(run / "warnings.jsonl"):
        if row["warning"].startswith(ENDED):
            return row["warning"].removeprefix(ENDED), row["step"]
    return "", None


def run_dpo(labels: Labels, folder: Path, *, beta: float, nll_weight: float) -> Point:
    """Tune by DPO at another beta, and measure how far it went and what it gained."""
    s = dpo_settings(labels.tuning("dpo", folder))
    model = direct.train(replace(s, beta=beta, nll_weight=nll_weight))
    toned = labels.desk.toned()
    after = proof.answer(model, "tuned", toned, folder)
    return Point(
        line="DPO + NLL" if nll_weight else "DPO",
        name=f"beta {beta:g}",
        seed=labels.s.seed,
        kl=labels.desk.kl(after, toned).value,
        gold=labels.desk.gained(after).value,
    )


def run_best_of_n(labels: Labels, folder: Path) -> list[Point]:
    """Draw 8 replies to each prompt; return what the best of 2, 4 and 8 by reward truly gain."""
    draw = GenerateSettings(max_new_tokens=MAX_REPLY_TOKENS)
    job = Job(
        generator=load_generator(labels.desk.sft, draw, name="sft"),
        scorer=load_scorer([str(labels.reward)]),
        n=max(BEST_OF),
        seed=labels.s.seed,
        gold=labels.tuning("best-of-n", folder).gold(),
    )
    report = best_of_n_file(job, labels.desk.toned(), out=folder / "best.jsonl")
    gold = {row.k: row.gold.mean for row in report.rows if row.gold is not None}
    return [
        Point(
            line="best-of-n",
            name=f"n {row.k}",
            seed=labels.s.seed,
            kl=row.kl_upper_bound,
            gold=gold[row.k] - gold[1],
        )
        for row in report.rows
        if row.k in BEST_OF
    ]


def run_watched(labels: Labels, folder: Path, *, stop_on_alarm: bool) -> WatchedRun:
    """Tune by RLOO without a limit on KL, looking every 5 steps at evaluation prompts."""
    desk, t = labels.desk, labels.tuning("rloo", folder)
    asked, toned = folder / "watched.jsonl", desk.toned()
    write_records(asked, toned, format="preftune")
    watch = WatchSettings(
        watch_every=LOOKS_EVERY,
        watch_prompts=LOOK_PROMPTS,
        watch_data=asked,
        stop_on_alarm=stop_on_alarm,
    )
    settings = replace(rloo_settings(t), watch=watch, limits=KlLimits())
    after = proof.answer(rft.train(settings, audit=t.gold()), "tuned", toned, folder)
    run = settings.run.out
    looks = tuple(looks_in(run))
    reason, stopped = ended(run)
    return WatchedRun(
        seed=t.s.seed,
        looks=looks,
        ended=reason,
        stopped=stopped,
        published=(best(looks) if reason else looks[-1]).step,
        kl=desk.kl(after, toned),
        gold=desk.gained(after),
    )
