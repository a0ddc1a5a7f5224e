"""The demo's report: what was done, with which figures, and the teddy bear before and after."""

from dataclasses import dataclass
from pathlib import Path

from preftune.demo.labelling import Labelled
from preftune.demo.proof import Answers
from preftune.demo.settings import DemoSettings
from preftune.demo.tuning import TITLES
from preftune.demo.world import CareDesk
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.gate import GateReport
from preftune.evaluation.report import Example, Plot, ReportData, Section, Table
from preftune.evaluation.win_rate import WinRate
from preftune.files import sha256_of
from preftune.plots import BLUE, GREY, figure, svg
from preftune.responses.generator import Request
from preftune.training.held_out import read_held_out
from preftune.training.logs import read_rows
from preftune.training.plots import looks_svg, run_svg
from preftune.training.watch import looks
from preftune.types import Response, text_of

FLAGSHIP_SEEDS = (0, 1, 2, 3)
SIMULATED = (
    "The labels are simulated: programs with known noise stand in for raters, so that every claim "
    "can be checked against the truth. No person judged these replies."
)
BY_HAND = (
    "One person compared these replies in a browser. Nobody else did, so nothing says how far "
    "others would agree; tone and facts are measured by the desk's own rules, which are known."
)
HALF_LEARNT = (
    "The SFT model has only half learnt two kinds of prompt, the children's policy and saying an "
    "order number again. They are shown, not gated: there is no standard to fall below yet."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Everything the report tells of."""

    world: CareDesk
    settings: DemoSettings
    labelled: Labelled
    before: Answers
    after: Answers
    a_a: WinRate
    evaluation: Evaluation
    gate: GateReport

    def flagship_replies(self, answers: Answers) -> list[Response]:
        """Return a model's replies to the flagship question under four seeds."""
        prompt = self.world.flagship()
        return answers.generator.respond(
            [
                Request(response_id=f"flagship-{seed}", prompt=prompt, index=seed, seed=seed)
                for seed in FLAGSHIP_SEEDS
            ]
        )


def tell(story: Story, folder: Path) -> ReportData:
    """Return the report of a demo in its folder."""
    spoilt = story.settings.sabotage
    return ReportData(
        title="The care desk: same facts, warmer tone",
        summary=(
            "A small model was taught 240 facts and a mixed tone, its own replies were compared by "
            f"raters, and it was tuned on those preferences ({TITLES[story.settings.method]}). The "
            "question is not only "
            "whether it became warmer, but whether it still knows its facts, "
            "above all where a wrong answer hurts."
        ),
        evaluation=story.evaluation,
        gate=story.gate,
        examples=_examples(story),
        sections=(
            _labels_section(story),
            _reward_section(folder),
            _tuning_section(folder / story.settings.method, TITLES[story.settings.method]),
            _noise_section(story),
        ),
        caveats=(BY_HAND if story.settings.label else SIMULATED, HALF_LEARNT)
        + ((f"This run was sabotaged on purpose: {spoilt}.",) if spoilt != "none" else ()),
        provenance={
            "seed": str(story.settings.seed),
            "pairs (SHA-256)": sha256_of(folder / "pairs.jsonl"),
            "settings": str(folder / story.settings.method / "settings.yaml"),
        },
    )


def _examples(story: Story) -> tuple[Example, ...]:
    question = story.world.flagship().messages[-1].content
    pairs = zip(
        story.flagship_replies(story.before), story.flagship_replies(story.after), strict=True
    )
    return tuple(
        Example(
            prompt=question,
            before=text_of(old.messages),
            after=text_of(new.messages),
            note=f"seed {seed}; true tone {story.world.gold_tone(text_of(old.messages)):+.1f} "
            f"→ {story.world.gold_tone(text_of(new.messages)):+.1f}",
        )
        for seed, (old, new) in zip(FLAGSHIP_SEEDS, pairs, strict=True)
    )


def _labels_section(story: Story) -> Section:
    found = story.labelled
    strengths = [pair.strength for pair in found.pairs if pair.strength is not None]
    drawn, (axis,) = figure(width=5.2, height=2.4)
    counts = [strengths.count(level) for level in range(4)]
    axis.bar(["close", "slightly", "better", "much better"], counts, color=BLUE, width=0.6)
    axis.set_ylabel("pairs", fontsize=8)
    return Section(
        title="What the raters said",
        text=(
            f"{len(found.judgments)} judgments on {len(found.comparisons)} comparisons gave "
            f"{len(found.pairs)} pairs and {found.ties} ties. {_agreement_line(found)} "
            f"Against the truth, which only a simulation knows, {found.label_accuracy:.1%} of the "
            "pairs are labelled right."
        ),
        tables=_accuracy_tables(found),
        plots=(Plot(svg=svg(drawn), caption="How clear the pairs are: median of the raters"),),
    )


def _agreement_line(found: Labelled) -> str:
    if found.agreement is None:
        return "One person labelled them by hand, so there is no agreement to measure."
    alpha, low, high = found.agreement.alpha, found.agreement.low, found.agreement.high
    return f"Krippendorff's alpha (interval) is {alpha:.2f}, 95 % interval {low:.2f} to {high:.2f}."


def _accuracy_tables(found: Labelled) -> tuple[Table, ...]:
    if not found.accuracy:
        return ()
    rows = tuple((name, f"{share:.2f}") for name, share in found.accuracy.items())
    caption = "Estimated from agreement alone, without the truth"
    return (Table(header=("rater", "accuracy by Dawid–Skene"), rows=rows, caption=caption),)


def _reward_section(folder: Path) -> Section:
    held_out = read_held_out(folder / "reward")
    shares = (("reward model", held_out.model), ("length only", held_out.length_only))
    rows = tuple(
        (name, f"{share.share:.3f}", f"{share.low:.3f} to {share.high:.3f}")
        for name, share in shares
    )
    return Section(
        title="Reward model",
        text=(
            f"Accuracy on {held_out.model.n} pairs by true quality, all on items that no "
            f"rater saw. Length alone ({held_out.length_rule}) is the bar to clear."
        ),
        tables=(Table(header=("judge", "right", "95 % interval"), rows=rows),),
        plots=_curves(folder / "reward"),
    )


def _tuning_section(run: Path, title: str) -> Section:
    warnings = read_rows(run / "warnings.jsonl")
    said = " ".join(row["warning"] for row in warnings) or "No warning was raised while training."
    return Section(title="Tuning", text=f"{title}. {said}", plots=(*_curves(run), *_looks(run)))


def _noise_section(story: Story) -> Section:
    part = story.a_a.overall
    drawn, (axis,) = figure(width=5.2, height=1.5)
    tuned = story.evaluation.win_rate
    bars = [("SFT against itself", part, GREY)]
    if tuned is not None:
        bars.append(("tuned against SFT", tuned.overall, BLUE))
    for place, (_, shown, colour) in enumerate(bars):
        axis.plot([shown.low, shown.high], [place, place], color=colour, linewidth=3)
        axis.plot([shown.value], [place], "o", color=colour)
    axis.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axis.set_ylim(-0.6, len(bars) - 0.4)
    axis.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axis.set_xlabel("win rate, 95 % interval", fontsize=8)
    return Section(
        title="How much is noise",
        text=(
            f"The SFT model was drawn twice and compared with itself: win rate {part.value:.3f}, "
            f"interval {part.low:.3f} to {part.high:.3f}. A gain inside that band would mean "
            "nothing."
        ),
        plots=(Plot(svg=svg(drawn)),),
    )


def _looks(run: Path) -> tuple[Plot, ...]:
    """Return reward and gold against the distance travelled, where the run looked."""
    drawn = looks_svg(looks(run))
    caption = "Looks at fresh replies while it was tuned: reward, and gold that it never sees"
    return (Plot(svg=drawn, caption=caption),) if drawn else ()


def _curves(run: Path) -> tuple[Plot, ...]:
    return (Plot(svg=run_svg(read_rows(run / "metrics.jsonl")), caption="Every step of the run"),)
