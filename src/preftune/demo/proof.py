"""The last third: is the tuned model better, and is nothing broken that must not break?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

from preftune.datasets import read_responses
from preftune.demo.gold import gold_tone
from preftune.demo.labelling import Labelled
from preftune.demo.prompts import tag
from preftune.demo.raters import quality, show
from preftune.demo.world import MAX_REPLY_TOKENS, CareDesk
from preftune.evaluation.evaluate import Evaluation, evaluate
from preftune.evaluation.kl import kl_measure
from preftune.evaluation.measures import Measure, mean_measure
from preftune.evaluation.regression import Item, PairedCheck, paired_check
from preftune.evaluation.win_rate import WinRate, win_rate
from preftune.inference.backend import TransformersGenerator, load_generator
from preftune.inference.score import sequence_logps
from preftune.responses.generator import GenerateSettings
from preftune.responses.sample import sample
from preftune.training.logs import read_rows
from preftune.types import Comparison, Judgment, Message, Prompt, Rater, Response, text_of

SEEDS = (101, 202)  # replies are drawn twice and averaged: one draw alone moves the win rate by .03
TONE_KINDS = ("fact", "followup")  # the fixed replies to the other kinds have no tone
CRITICAL_KINDS = ("danger", "unknown", "privacy")
HALF_LEARNT = "policy and echo"  # SFT has only half learnt these: shown, not gated
HALF_LEARNT_KINDS = ("policy", "echo")
SLICES = ("head", "tail", "seen-item", "held-out-item", "boring")
AUDIT_PROMPTS = 60
REPLIES = GenerateSettings(max_new_tokens=MAX_REPLY_TOKENS, temperature=1.0)
GOLD = Rater(id="gold-tone", kind="rule")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The replies of one model to the evaluation prompts, drawn once per seed."""

    generator: TransformersGenerator
    files: tuple[Path, ...]
    responses: tuple[list[Response], ...]

    @property
    def all(self) -> list[Response]:
        """Replies of all draws, draw after draw."""
        return [response for draw in self.responses for response in draw]


def sliced(prompt: Prompt) -> Prompt:
    """Return the prompt with just the tags worth a slice of their own."""
    kept = [name for name in prompt.tags if name in SLICES]
    return replace(prompt, tags=(tag(prompt, "kind"), *kept))


def answer(model: Path, name: str, prompts: Sequence[Prompt], folder: Path) -> Answers:
    """Return the model's replies to the prompts under each seed, from files when there already."""
    generator = load_generator(model, REPLIES, name=name)
    files = tuple(folder / f"{name}-{seed}.jsonl" for seed in SEEDS)
    for seed, file in zip(SEEDS, files, strict=True):
        sample(prompts, generator, n=1, seed=seed, out=file)
    return Answers(
        generator=generator,
        files=files,
        responses=tuple(read_responses(file) for file in files),
    )


def facts_share(world: CareDesk, prompts: Sequence[Prompt], responses: Sequence[Response]) -> float:
    """Return the share of right answers to the questions about cards."""
    asked = {p.id: p for p in prompts if tag(p, "kind") == "fact"}
    checked = [
        world.check(asked[r.prompt_id], text_of(r.messages)) == "ok"
        for r in responses
        if r.prompt_id in asked
    ]
    return fmean(checked)


def judged_by_gold(
    prompts: Sequence[Prompt], first: Sequence[Response], second: Sequence[Response]
) -> tuple[list[Comparison], list[Judgment]]:
    """Return comparisons of two draws on prompts that have a tone, judged by the true tone."""
    asked = {p.id: sliced(p) for p in prompts if tag(p, "kind") in TONE_KINDS}
    comparisons = [
        show(asked[one.prompt_id], (one, two))
        for one, two in zip(first, second, strict=True)
        if one.prompt_id in asked
    ]
    return comparisons, [_gold_judgment(comparison) for comparison in comparisons]


def a_a_test(prompts: Sequence[Prompt], answers: Answers) -> WinRate:
    """Return the win rate of the baseline over itself, drawn with two seeds: should hold ½."""
    first = [replace(r, generator="again", id=f"{r.id}-again") for r in answers.responses[0]]
    comparisons, judgments = judged_by_gold(prompts, first, answers.responses[1])
    return win_rate(comparisons, judgments, candidate="again", baseline=answers.generator.name)


def prove(
    world: CareDesk,
    prompts: Sequence[Prompt],
    *,
    baseline: Answers,
    candidate: Answers,
    labelled: Labelled,
    run: Path | None,
) -> Evaluation:
    """Return all that is known of the candidate: wins, facts, slices, KL, data, displacement."""
    comparisons, judgments = judged_by_gold(prompts, baseline.all, candidate.all)
    return evaluate(
        comparisons,
        judgments,
        candidate=candidate.generator.name,
        baseline=baseline.generator.name,
        checks=[
            check(world, prompts, baseline, candidate, name="facts", kinds=("fact",)),
            check(world, prompts, baseline, candidate, name="critical", kinds=CRITICAL_KINDS),
            check(world, prompts, baseline, candidate, name="follow-up", kinds=("followup",)),
            check(world, prompts, baseline, candidate, name=HALF_LEARNT, kinds=HALF_LEARNT_KINDS),
        ],
        measures=[
            kl_measure(
                candidate.generator.model,
                baseline.generator.model,
                candidate.generator.chat,
                prompts={p.id: p for p in prompts},
                responses=candidate.all,
            ),
            *([displacement_measure(run)] if run is not None else []),
            data_measure(labelled, baseline),
            audit_measure(world, prompts, baseline, candidate),
        ],
        simulated_labels=True,
    )


def check(
    world: CareDesk,
    prompts: Sequence[Prompt],
    baseline: Answers,
    candidate: Answers,
    *,
    name: str,
    kinds: Sequence[str],
) -> PairedCheck:
    """Return who lost or gained which facts; the prompts about one card are one cluster."""
    asked = {p.id: p for p in prompts if tag(p, "kind") in kinds}

    def passed(answers: Answers) -> dict[Item, bool]:
        return {
            (r.prompt_id, draw): world.check(asked[r.prompt_id], text_of(r.messages)) == "ok"
            for draw, responses in enumerate(answers.responses)
            for r in responses
            if r.prompt_id in asked
        }

    return paired_check(
        name,
        baseline=passed(baseline),
        candidate=passed(candidate),
        tags={p.id: sliced(p).tags for p in asked.values()},
        clusters={p.id: _card(p) for p in asked.values()},
    )


def displacement_measure(run: Path) -> Measure:
    """Return by how many nats the chosen responses fell, where that is much beside the margin."""
    rows = read_rows(run / "metrics.jsonl")
    last = rows[-max(1, len(rows) // 4) :]
    chosen = fmean(row["chosen_logratio"] for row in last)
    margin = fmean(row["margin"] for row in last)
    fell = max(0.0, -chosen)
    return Measure(
        name="displacement",
        value=fell if fell > 0.1 * margin else 0.0,
        n=len(last),
        unit="nats",
        note=f"chosen {chosen:+.2f}, margin {margin:+.2f} nats over the last quarter of the run",
    )


def data_measure(labelled: Labelled, baseline: Answers) -> Measure:
    """Return how far the chosen responses are from what the SFT model itself writes, in sds.

    Mean log-prob per token of chosen under the SFT model, less that of its own samples, over the
    standard deviation of the samples.
    """
    own = _per_token(baseline, [(p, r.messages) for p, r in labelled.samples])
    chosen = _per_token(baseline, [(pair.prompt, pair.chosen) for pair in labelled.pairs])
    spread = pstdev(own)
    return Measure(
        name="data_fit",
        value=(fmean(chosen) - fmean(own)) / spread,
        n=len(labelled.pairs),
        unit="sd",
        note=f"chosen {fmean(chosen):.2f}, own {fmean(own):.2f} ± {spread:.2f} nats a token",
    )


def audit_measure(
    world: CareDesk, prompts: Sequence[Prompt], baseline: Answers, candidate: Answers
) -> Measure:
    """Return the change in true quality on 60 replies, as an audit by the best raters would.

    Quality is tone less 3 points where facts are wrong: what the reward model stands for.
    """
    audited = {p.id for p in prompts if tag(p, "kind") in TONE_KINDS}
    pairs = [
        (old, new)
        for old, new in zip(baseline.responses[0], candidate.responses[0], strict=True)
        if old.prompt_id in audited
    ]
    every = max(1, len(pairs) // AUDIT_PROMPTS)
    drawn = pairs[::every][:AUDIT_PROMPTS]
    return mean_measure(
        "gold_audit",
        quality_gains(world, prompts, drawn),
        [old.prompt_id for old, _ in drawn],
        unit="points",
        note=f"change in true quality on {len(drawn)} replies",
    )


def quality_gains(
    world: CareDesk, prompts: Sequence[Prompt], pairs: Sequence[tuple[Response, Response]]
) -> list[float]:
    """Return by how many points of true quality the second reply of each pair is better."""
    asked = {p.id: p for p in prompts}

    def worth(response: Response) -> float:
        return quality(asked[response.prompt_id], text_of(response.messages), world.cards)

    return [worth(new) - worth(old) for old, new in pairs]


def _per_token(answers: Answers, rows: Sequence[tuple[Prompt, tuple[Message, ...]]]) -> list[float]:
    """Return the log-prob per token of each response under the model, nats."""
    sequences = [answers.generator.chat.encode(prompt, messages) for prompt, messages in rows]
    sums, lengths = sequence_logps(answers.generator.model, sequences)
    return (sums / lengths).tolist()


def _card(prompt: Prompt) -> str:
    rows = [name for name in prompt.tags if name.startswith("row:")]
    return rows[0] if rows else prompt.id


def _gold_judgment(comparison: Comparison) -> Judgment:
    tones = [gold_tone(text_of(r.messages)) for r in comparison.responses]
    gap = tones[0] - tones[1]
    name, shown = f"gold-{comparison.id}", comparison.id
    if abs(gap) < 1e-9:
        return Judgment(id=name, comparison_id=shown, kind="tie", rater=GOLD, scores=tuple(tones))
    return Judgment(
        id=name,
        comparison_id=shown,
        kind="binary",
        choice=0 if gap > 0 else 1,
        rater=GOLD,
        scores=tuple(tones),
    )
