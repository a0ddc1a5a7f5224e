"""The whole loop on the care desk: teach, sample, label, tune, prove. Read it downwards."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from preftune.datasets import write_records
from preftune.demo import labelling, proof
from preftune.demo.looks import looks_lines
from preftune.demo.settings import CAUGHT_BY, DemoSettings
from preftune.demo.story import Story, tell
from preftune.demo.teaching import teach
from preftune.demo.tuning import TITLES, Tuning, tune
from preftune.demo.world import CareDesk
from preftune.engine.settings import OptimizerSettings
from preftune.errors import SettingsError
from preftune.evaluation.evaluate import Evaluation, write_evaluation
from preftune.evaluation.gate import GateReport, gate, read_suite, write_gate
from preftune.evaluation.report import write_report
from preftune.evaluation.win_rate import WinRate
from preftune.training import reward
from preftune.training.held_out import HeldOut, read_held_out
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import RunSettings
from preftune.training.watch import looks
from preftune.types import PreferencePair, text_of

GATES = Path(__file__).parent / "data" / "gates.yaml"
MARK = "preftune-demo"  # a file that says that a folder may be made anew
REWARD_OPTIMIZER = OptimizerSettings(lr=3e-4, epochs=2.0, batch_size=16)
QUICK_SHARE = 10

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """How the demo ended."""

    gate: GateReport
    report: Path
    seconds: float

    @property
    def caught(self) -> tuple[str, ...]:
        """The gates that did not let it pass."""
        return tuple(result.name for result in self.gate.missed())


def run_demo(s: DemoSettings, say: Say) -> DemoResult:
    """Run every stage, say what happens, and return the gate's verdict with the report.

    Args:
        s: where to work, and how to spoil it on purpose.
        say: prints one line or more.

    Raises:
        SettingsError: the folder holds something else.
    """
    began = time.perf_counter()
    part = _stopwatch(say)
    folder = _own_folder(s.out)
    world = CareDesk()
    prompts = world.eval_prompts()[:: QUICK_SHARE if s.quick else 1]

    part("1  the care desk: 240 facts, a log of questions and replies")
    say(_log_excerpt(world))
    part("2  teach a small model from nothing (SFT)")
    sft = teach(world, s)
    before = proof.answer(sft, "sft", prompts, folder)
    a_a = proof.a_a_test(prompts, before)
    say(_sft_lines(proof.facts_share(world, prompts, before.all), a_a))
    by_whom = "you, in a browser" if s.label else "three SIMULATED raters on a 7-point scale"
    part(f"3  sample replies, compare them: {by_whom}")
    labelled = labelling.sample_and_label(world, before.generator, s, say)
    pairs = folder / "pairs.jsonl"
    write_records(pairs, labelled.pairs, format="preftune")
    say(_label_lines(labelled))
    part("4  a reward model from the pairs")
    truth = labelling.held_out_pairs(world, prompts, *before.files)
    say(_reward_line(_train_reward(s, sft=sft, pairs=pairs, truth=truth)))
    part(f"5  tune: {TITLES[s.method]}")
    tuned = tune(Tuning(world=world, s=s, sft=sft, pairs=pairs, reward=folder / "reward" / "final"))
    if line := looks_lines(looks(folder / s.method)):
        say(line)
    part("6  prove it")
    after = proof.answer(tuned, "tuned", prompts, folder)
    run = folder / "dpo" if s.method == "dpo" else None
    evaluation = proof.prove(
        world, prompts, baseline=before, candidate=after, labelled=labelled, run=run
    )
    verdict = _gated(evaluation, s)
    say(_gate_lines(verdict))
    story = Story(
        world=world,
        settings=s,
        labelled=labelled,
        before=before,
        after=after,
        a_a=a_a,
        evaluation=evaluation,
        gate=verdict,
    )
    say(_flagship_lines(story))
    report = _write_all(story, folder)
    return DemoResult(gate=verdict, report=report, seconds=time.perf_counter() - began)


def _gated(evaluation: Evaluation, s: DemoSettings) -> GateReport:
    """Return the verdict; displacement is for DPO, which alone has chosen replies."""
    suite, rules = read_suite(GATES)
    kept = tuple(r for r in rules if s.method == "dpo" or r.name != "displacement")
    return gate(evaluation, kept, suite=suite)


def _train_reward(
    s: DemoSettings, *, sft: Path, pairs: Path, truth: list[PreferencePair]
) -> HeldOut:
    """Return how the reward model does on true preferences about items that no rater saw."""
    held_out = s.out / "gold_pairs.jsonl"
    write_records(held_out, truth, format="preftune")
    reward.train(
        RewardSettings(
            model=str(sft),
            data=pairs,
            held_out=held_out,
            optimizer=REWARD_OPTIMIZER,
            run=RunSettings(out=s.out / "reward", seed=s.seed, threads=s.threads),
        )
    )
    return read_held_out(s.out / "reward")


def _write_all(story: Story, folder: Path) -> Path:
    """Write evaluation, gate and report; return the report."""
    write_evaluation(folder / "evaluation.json", story.evaluation)
    write_gate(folder / "gate.json", story.gate)
    write_report(folder / "report.html", tell(story, folder))
    return folder / "report.html"


def expected(s: DemoSettings, result: DemoResult) -> str:
    """Return a line on whether the gates that must stop a sabotage did."""
    wanted = CAUGHT_BY.get(s.sabotage, ())
    missed = [name for name in wanted if name not in result.caught]
    if not wanted:
        return ""
    if missed:
        return f"sabotage {s.sabotage} got PAST the gates {', '.join(missed)}"
    return f"sabotage {s.sabotage} was stopped, as it must be, by: {', '.join(wanted)}"


def _own_folder(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise SettingsError(f"{folder}: holds something else than a demo. Give another --out.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def _stopwatch(say: Say) -> Say:
    began = time.perf_counter()

    def say_part(title: str) -> None:
        say(f"\n[{time.perf_counter() - began:5.0f} s]  {title}")

    return say_part


def _log_excerpt(world: CareDesk) -> str:
    rows = world.log_rows(5, seed=1)
    return "\n".join(
        f"   {row.channel:5s}  {row.user}\n          → {row.text}"
        + (f"   (thumb {row.thumbs})" if row.thumbs else "")
        for row in rows
    )


def _sft_lines(facts: float, a_a: WinRate) -> str:
    part = a_a.overall
    return (
        f"   facts right in {facts:.1%} of answers (held-out phrasings, temperature 1)\n"
        f"   A/A test: it beats itself in {part.value:.1%} "
        f"({part.low:.1%} to {part.high:.1%}): that much is noise"
    )


def _reward_line(held_out: HeldOut) -> str:
    return (
        f"   right in {held_out.model.share:.1%} of true preferences on items no rater saw; "
        f"length alone: {held_out.length_only.share:.1%}"
    )


def _label_lines(labelled: labelling.Labelled) -> str:
    lines = [
        f"   {len(labelled.comparisons)} comparisons, {len(labelled.judgments)} judgments "
        f"→ {len(labelled.pairs)} pairs, {labelled.ties} ties"
    ]
    if found := labelled.agreement:
        raters = ", ".join(f"{name} {share:.2f}" for name, share in labelled.accuracy.items())
        lines.append(
            f"   agreement: Krippendorff alpha {found.alpha:.2f} "
            f"({found.low:.2f} to {found.high:.2f}); Dawid–Skene: {raters}"
        )
    lines.append(
        f"   the labels are right in {labelled.label_accuracy:.1%} of pairs (known only here)"
    )
    return "\n".join(lines)


def _gate_lines(verdict: GateReport) -> str:
    width = max(len(result.name) for result in verdict.results)
    lines = [f"   {r.outcome:10s}  {r.name:{width}s}  {r.sentence}" for r in verdict.results]
    return "\n".join([*lines, f"   verdict: {verdict.verdict.upper()}"])


def _flagship_lines(story: Story) -> str:
    question = story.world.flagship().messages[-1].content
    replies = [
        f"   {name:6s}  {text_of(response.messages)}"
        for name, answers in (("before", story.before), ("after", story.after))
        for response in story.flagship_replies(answers)
    ]
    return "\n".join([f'\n   "{question}"', *replies])
