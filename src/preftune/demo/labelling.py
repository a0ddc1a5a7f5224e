"""The second third: sample replies, have them compared, make pairs of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.comparisons.raters import dawid_skene
from preftune.datasets import read_responses
from preftune.demo.by_hand import label_by_hand
from preftune.demo.raters import PANEL, quality, show
from preftune.demo.sabotage import LENGTH_JUDGES, flip_pairs, length_pairs, ood_pairs
from preftune.demo.settings import DemoSettings
from preftune.demo.world import CareDesk
from preftune.inference.backend import TransformersGenerator
from preftune.responses.sample import sample
from preftune.stats.agreement import alpha_interval, krippendorff_alpha
from preftune.store.snapshots import Judged
from preftune.types import Comparison, Judgment, PreferencePair, Prompt, Response, text_of

PROMPTS, SAMPLES = 500, 4
REWRITE_FRAC = 0.1  # of the pairs: a blunt logged reply against its rewriting


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Krippendorff's alpha, interval level, with its 95 % interval."""

    alpha: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What the raters said, and the pairs that came of it."""

    comparisons: list[Comparison]
    judgments: list[Judgment]
    pairs: list[PreferencePair]
    samples: list[tuple[Prompt, Response]]
    ties: int
    agreement: Agreement | None  # None with a single rater
    accuracy: dict[str, float]  # rater → Dawid–Skene estimate; empty where it cannot tell
    label_accuracy: float  # share of the pairs whose chosen reply truly is the better one


def sample_and_label(
    world: CareDesk, generator: TransformersGenerator, s: DemoSettings, say: Callable[[str], object]
) -> Labelled:
    """Return labelled pairs over samples of the model itself, spoilt if a sabotage asks for it."""
    prompts = world.label_prompts(PROMPTS // 10 if s.quick else PROMPTS, seed=s.seed)
    out = s.out / "samples.jsonl"
    sample(prompts, generator, n=SAMPLES, seed=s.seed, out=out)
    by_prompt = {prompt.id: prompt for prompt in prompts}
    samples = [(by_prompt[r.prompt_id], r) for r in read_responses(out)]
    said = _said(world, couples(samples, seed=s.seed), s, say)
    accuracy = {} if s.label else rater_accuracy(said.judgments)
    found = pairs_from_judgments(said.comparisons, said.judgments)
    count = 0 if s.label else round(REWRITE_FRAC * len(found.pairs))
    rewrites = world.rewrites(count, seed=s.seed)
    pairs = spoilt([*found.pairs, *rewrites], samples, s)
    return Labelled(
        comparisons=said.comparisons,
        judgments=said.judgments,
        pairs=pairs,
        samples=samples,
        ties=len(found.ties),
        agreement=None if s.label else agreement(said.judgments),
        accuracy=accuracy,
        label_accuracy=label_accuracy(world, pairs),
    )


def _said(
    world: CareDesk, shown: list[Comparison], s: DemoSettings, say: Callable[[str], object]
) -> Judged:
    """Return what was said of the comparisons: by a person, or by simulated raters."""
    if s.label:
        return label_by_hand(shown, store=s.label_store, port=s.label_port, say=say)
    panel = LENGTH_JUDGES if s.sabotage == "length-judge" else PANEL
    return Judged(comparisons=shown, judgments=world.label(shown, panel, seed=s.seed))


def agreement(judgments: Sequence[Judgment]) -> Agreement:
    """Return Krippendorff's alpha of the raters' grades."""
    votes = [(j.comparison_id, j.rater.id, j.grade or 4) for j in judgments]
    low, high = alpha_interval(votes, level="interval")
    return Agreement(alpha=krippendorff_alpha(votes, level="interval"), low=low, high=high)


def couples(samples: Sequence[tuple[Prompt, Response]], *, seed: int) -> list[Comparison]:
    """Return samples 1 against 2 and 3 against 4 of each prompt, sides shuffled.

    Two samples that are word for word the same, or of which one says nothing, teach nothing.
    """
    return [
        show(prompt, (one, two), seed=seed)
        for (prompt, one), (_, two) in zip(samples[0::2], samples[1::2], strict=True)
        if one.messages != two.messages and text_of(one.messages) and text_of(two.messages)
    ]


def rater_accuracy(judgments: Sequence[Judgment]) -> dict[str, float]:
    """Return what Dawid–Skene makes of the raters: mean of their two rates of right votes."""
    votes = [
        (j.comparison_id, j.rater.id, int(j.grade < 4))
        for j in judgments
        if j.grade is not None and j.grade != 4
    ]
    fitted = dawid_skene(votes)
    return {
        str(rater): fmean((fitted.sensitivity[rater], fitted.specificity[rater]))
        for rater in fitted.sensitivity
    }


def spoilt(
    pairs: list[PreferencePair], samples: Sequence[tuple[Prompt, Response]], s: DemoSettings
) -> list[PreferencePair]:
    """Return the pairs as the sabotage leaves them."""
    if s.sabotage == "ood-pairs":
        return ood_pairs(samples, seed=s.seed)
    if s.sabotage == "beta-0-rl":
        return [*pairs, *length_pairs(samples, n=len(pairs), seed=s.seed)]
    if s.sabotage == "flip-40":
        return flip_pairs(pairs, seed=s.seed)
    return pairs


def label_accuracy(world: CareDesk, pairs: Sequence[PreferencePair]) -> float:
    """Return the share of pairs whose chosen reply has the higher true quality; equal counts ½."""
    signs = []
    for pair in pairs:
        chosen, rejected = (
            quality(pair.prompt, text_of(side), world.cards)
            for side in (pair.chosen, pair.rejected)
        )
        signs.append(0.5 + 0.5 * ((chosen > rejected) - (chosen < rejected)))
    return fmean(signs)


def held_out_pairs(
    world: CareDesk, prompts: Sequence[Prompt], first: Path, second: Path
) -> list[PreferencePair]:
    """Return pairs by TRUE quality on items no rater ever saw, to measure the reward model on.

    Two samples of the SFT model on each prompt; equal qualities make no pair.
    """
    by_prompt = {p.id: p for p in prompts if "held-out-item" in p.tags}
    found = []
    for one, two in zip(read_responses(first), read_responses(second), strict=True):
        prompt = by_prompt.get(one.prompt_id)
        if prompt is None:
            continue
        gap = quality(prompt, text_of(one.messages), world.cards) - quality(
            prompt, text_of(two.messages), world.cards
        )
        if gap and text_of(one.messages) and text_of(two.messages):
            chosen, rejected = (one, two) if gap > 0 else (two, one)
            found.append(
                PreferencePair(
                    id=f"gold-{one.id}",
                    prompt=prompt,
                    chosen=chosen.messages,
                    rejected=rejected.messages,
                )
            )
    return found
