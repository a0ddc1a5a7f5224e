"""The runs behind docs/over-optimisation.md: fresh samples to label, and reward models that vote.

B5 spends the same number of labels on samples of the SFT model and on samples of the policy as it
is. B8 picks the best of many replies by one reward model, by the mean and by the worst of four.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.care_desk_runs import Labels
from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.datasets import read_responses, write_records
from preftune.demo import proof
from preftune.demo.labelling import couples, label_accuracy
from preftune.demo.pipeline import QUICK_SHARE, REWARD_OPTIMIZER
from preftune.demo.sabotage import flip_pairs
from preftune.demo.tuning import dpo_settings
from preftune.evaluation.measures import Measure, mean_measure
from preftune.graders.scorer import Answer
from preftune.inference.backend import load_generator
from preftune.inference.combine import Combination, CombineSettings, combined
from preftune.inference.reward_scorer import load_scorer
from preftune.responses.sample import sample
from preftune.stats.best_of_n import expected_best
from preftune.training import direct, reward
from preftune.training.held_out import read_held_out
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import RunSettings
from preftune.types import PreferencePair

Arm = Literal["offline", "offline in rounds", "online"]
ARMS: tuple[Arm, ...] = ("offline", "offline in rounds", "online")
ROUNDS, LABELS = 3, 300  # comparisons to label in each round
ASKED = 450  # prompts of a round: two samples alike make no comparison
MEMBERS, FLIPPED = 4, 0.25
BEST_OF = (1, 2, 4, 8, 16, 32, 64)
BEST_PROMPTS = 150
SINGLE, MEAN, WORST = "one model", "mean of 4", "worst of 4"
RULES: dict[str, Combination] = {
    MEAN: "weighted",
    "mean less variance": "uncertainty",
    WORST: "min",
}

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRun:
    """What a policy made of its labels."""

    arm: Arm
    seed: int
    labels: int  # comparisons judged
    pairs: int
    label_accuracy: float  # share of the pairs whose chosen reply truly is better
    gold: Measure  # true quality gained over the SFT model
    facts: float  # share of right answers gained, negative when lost
    kl: Measure  # nats a reply, from the SFT model


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """What the best of n by a rule is worth, means over prompts."""

    rule: str
    n: int
    proxy: float  # its own score, in standard deviations of the SFT model's replies
    gold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleRun:
    """Four reward models that differ in their seed alone, and what best-of-n makes of them."""

    seed: int
    prompts: int
    right: tuple[float, ...]  # of each model, on true preferences about items no rater saw
    picked: tuple[Picked, ...]
    mean_over_single: Measure  # gold of the best of 64, prompt by prompt
    worst_over_mean: Measure


def run_arm(labels: Labels, folder: Path, *, arm: Arm) -> ArmRun:
    """Label, tune, and measure what 3 × 300 labels gave.

    Offline: one run of DPO on all pairs. Online: three, each on samples of the policy as it is.
    Offline in rounds: three on the samples of the SFT model, so that only freshness differs.
    """
    desk = labels.desk
    model, all_pairs, judged = desk.sft, list[PreferencePair](), 0
    rounds = range(ROUNDS)
    for part in [tuple(rounds)] if arm == "offline" else [(number,) for number in rounds]:
        by = model if arm == "online" else desk.sft
        fresh = [fresh_pairs(labels, by, number, folder) for number in part]
        pairs = [pair for _, found in fresh for pair in found]
        judged += sum(count for count, _ in fresh)
        all_pairs += pairs
        model = tuned(labels, model, pairs, folder / f"dpo-{part[0]}")
    after = proof.answer(model, "tuned", desk.toned(), folder)
    facts = proof.check(desk.world, desk.toned(), desk.before, after, name="facts", kinds=("fact",))
    return ArmRun(
        arm=arm,
        seed=labels.s.seed,
        labels=judged,
        pairs=len(all_pairs),
        label_accuracy=label_accuracy(desk.world, all_pairs),
        gold=desk.gained(after),
        facts=facts.overall.difference.difference,
        kl=desk.kl(after, desk.toned()),
    )


def fresh_pairs(
    labels: Labels, model: Path, number: int, folder: Path
) -> tuple[int, list[PreferencePair]]:
    """Return how many comparisons of a model's samples were judged in a round, and the pairs."""
    world, s = labels.desk.world, labels.s
    asked, wanted = (count // (QUICK_SHARE if s.quick else 1) for count in (ASKED, LABELS))
    prompts = world.label_prompts(ROUNDS * asked, seed=s.seed + 1)[number * asked :][:asked]
    generator = load_generator(model, proof.REPLIES, name=f"round-{number}")
    out = folder / f"samples-{number}.jsonl"
    sample(prompts, generator, n=2, seed=s.seed, out=out)
    by_id = {prompt.id: prompt for prompt in prompts}
    samples = [(by_id[response.prompt_id], response) for response in read_responses(out)]
    shown = couples(samples, seed=s.seed)[:wanted]
    return len(shown), pairs_from_judgments(shown, world.label(shown, seed=s.seed)).pairs


def tuned(labels: Labels, model: Path, pairs: Sequence[PreferencePair], out: Path) -> Path:
    """Return the model after DPO on the pairs with the demo's settings; it is the reference too."""
    data = out.with_suffix(".jsonl")
    write_records(data, pairs, format="preftune")
    settings = dpo_settings(labels.tuning("dpo", out.parent))
    run = replace(settings.run, out=out)
    return direct.train(replace(settings, model=str(model), data=data, run=run))


def run_ensemble(labels: Labels, folder: Path) -> EnsembleRun:
    """Train four reward models on labels of which a quarter is turned round; pick by them."""
    models = members(labels, folder)
    rows = many_replies(labels, folder)
    shape = (-1, max(BEST_OF))
    gold = np.array(labels.tuning("best-of-n", folder).gold().score(rows), dtype=float)
    parts = np.array(load_scorer(models).parts(rows))
    voted = {
        name: combined(torch.tensor(parts), CombineSettings(combine=rule)).numpy()
        for name, rule in RULES.items()
    }
    choosers = {SINGLE: list(parts), **{name: [scores] for name, scores in voted.items()}}
    far: dict[str, Array] = {}
    picked: list[Picked] = []
    for rule, each in choosers.items():
        own = [scores.reshape(shape) for scores in each]
        proxy = np.mean([best_of(scores, scores) for scores in own], axis=0)
        true = np.mean([best_of(scores, gold.reshape(shape)) for scores in own], axis=0)
        far[rule] = true[:, -1]
        picked += [
            Picked(
                rule=rule,
                n=n,
                proxy=float(proxy[:, n - 1].mean()),
                gold=float(true[:, n - 1].mean()),
            )
            for n in BEST_OF
        ]
    ids = [prompt.id for prompt, _ in rows[:: max(BEST_OF)]]

    def gap(better: str, worse: str) -> Measure:
        return mean_measure("gold", list(far[better] - far[worse]), ids, unit="points")

    return EnsembleRun(
        seed=labels.s.seed,
        prompts=len(ids),
        right=tuple(read_held_out(model.parent).model.share for model in models),
        picked=tuple(picked),
        mean_over_single=gap(MEAN, SINGLE),
        worst_over_mean=gap(WORST, MEAN),
    )


def best_of(scores: Array, worth: Array) -> Array:
    """Return `[prompts, n]`: what the best of 1, 2, … by score is worth, unbiased."""
    return np.array([expected_best(own, true) for own, true in zip(scores, worth, strict=True)])


def members(labels: Labels, folder: Path) -> list[Path]:
    """Return reward models trained on the same spoilt pairs in another order from another head."""
    pairs = folder / "flipped.jsonl"
    spoilt = flip_pairs(labels.labelled.pairs, frac=FLIPPED, seed=labels.s.seed)
    write_records(pairs, spoilt, format="preftune")
    return [
        reward.train(
            RewardSettings(
                model=str(labels.desk.sft),
                data=pairs,
                held_out=labels.pairs.with_name("gold_pairs.jsonl"),
                optimizer=REWARD_OPTIMIZER,
                run=RunSettings(
                    out=folder / f"reward-{member}",
                    seed=MEMBERS * labels.s.seed + member,
                    threads=labels.s.threads,
                ),
            )
        )
        for member in range(MEMBERS)
    ]


def many_replies(labels: Labels, folder: Path) -> list[Answer]:
    """Return 64 replies of the SFT model to each of 150 prompts, prompt after prompt."""
    toned = labels.desk.toned()
    prompts = toned[:: max(1, len(toned) // BEST_PROMPTS)][:BEST_PROMPTS]
    out = folder / "replies.jsonl"
    sample(prompts, labels.desk.before.generator, n=max(BEST_OF), seed=labels.s.seed, out=out)
    asked = {prompt.id: prompt for prompt in prompts}
    return [(asked[reply.prompt_id], reply.messages) for reply in read_responses(out)]
