"""A judge earns its place: it agrees with people, and answers that talk to it do not win.

Both are shown with an interval over prompts, and the bound must clear the bar, not the estimate.
The card that results names the model, the rubric, the template and the parameters it holds for.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from preftune.comparisons.aggregate import pairs_from_judgments
from preftune.comparisons.judging.attacks import FEWEST, Attacked, attack_set
from preftune.comparisons.judging.calls import CallLog
from preftune.comparisons.judging.panel import SETTLED, Outcome, outcomes
from preftune.comparisons.judging.prompt import template_hash
from preftune.comparisons.judging.rubric import Rubric
from preftune.comparisons.judging.run import (
    Judged,
    JudgeSettings,
    judge_comparisons,
    plan_calls,
    refuse_failures,
    wrote_one,
)
from preftune.comparisons.votes import units
from preftune.errors import DataError
from preftune.responses.chat_client import ChatClient, ChatRequest
from preftune.settings import flat
from preftune.stats.intervals import cluster_places
from preftune.stats.shares import Share, share
from preftune.types import Comparison, Judgment, content_id

Passed = Literal["pass", "fail", "cannot tell"]
MARKS = {"right": 1.0, "flip": 0.5, "tie": 0.5, "wrong": 0.0, "unparsed": 0.0}
PARAMETERS = ("both_orders", "temperature", "max_tokens", "top_logprobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class QualifySettings:
    """What a judge must reach. Choose before looking at a figure."""

    bar: Annotated[
        float, Meta(gt=0, lt=1, description="Agreement with people that the lower bound clears.")
    ] = 0.75
    least_items: Annotated[int, Meta(ge=2, description="Fewest items with a human label.")] = 100
    least_attacks: Annotated[int, Meta(ge=1, description="Fewest attacked comparisons.")] = FEWEST
    most_flips: Annotated[
        float, Meta(gt=0, lt=1, description="Share of attacks that may win; for the upper bound.")
    ] = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Items that people decided, and what became of the rest."""

    items: list[tuple[Comparison, int]]  # and the place of the better response
    undecided: int  # people tied, or said nothing in this dimension

    @property
    def hash(self) -> str:
        """Twelve hex digits over the items and their labels."""
        return content_id("calibration", self.items).removeprefix("calibration-")[:12]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What one judge showed on one calibration set."""

    judge: str
    rubric: str
    rubric_hash: str
    template_hash: str
    parameters: Mapping[str, object]
    calibration: str
    undecided_by_people: int
    right: int
    wrong: int
    flips: int
    ties: int
    unparsed: int
    agreement: Share
    bar: float
    attacks: Share
    attacks_unparsed: int
    most_flips: float
    by_kind: Mapping[str, float]  # share of the attacks of this kind that won
    verdict: Passed
    reasons: tuple[str, ...]


def labelled(
    comparisons: Sequence[Comparison], judgments: Iterable[Judgment], *, dimension: str
) -> Labelled:
    """Return the comparisons of two responses that people decided, joined over raters.

    Raises:
        DataError: nobody of kind human judged in this dimension.
    """
    people = [j for j in judgments if j.rater.kind == "human"]
    if not any(j.dimension == dimension for j in people):
        known = ", ".join(sorted({j.dimension for j in people})) or "none at all"
        raise DataError(
            f"calibration: no human labels in dimension {dimension!r}; there are: {known}. "
            "Name another dimension, or give labels of people."
        )
    joined = pairs_from_judgments(comparisons, people, dimension=dimension)
    first = {unit.comparison.id: unit.comparison for unit in units(comparisons, ())}
    items = []
    for pair in joined.pairs:
        shown = first[pair.provenance.comparison_id]
        if len(shown.responses) == 2 and pair.id.endswith(f"/{dimension}"):  # not a rewrite
            items.append((shown, int(pair.chosen != shown.responses[0].messages)))
    return Labelled(items=items, undecided=len(first) - len(items))


def qualify(
    client: ChatClient,
    rubric: Rubric,
    known: Labelled,
    calls: CallLog,
    *,
    asking: JudgeSettings,
    settings: QualifySettings,
) -> Card:
    """Return the card of a judge: agreement with people, and how often an attack wins.

    Agreement is the mean over items of 1 (right over both orders), ½ (a flip or a tie), 0 (wrong,
    or no verdict). Attacks are made of items that the judge got right, on the worse answer; the
    mean is of 1 (the attacked answer wins in both orders), ½ (undecided now), 0 (still right), so
    that it is what the attacks add to a clean share of 0. Three outcomes each: pass when the bound
    clears the bar, fail when the other bound misses it, else it cannot be told.

    Raises:
        DataError: fewer labelled items than asked for, or too few that the judge gets right.
        HealthError: questions without an answer.
    """
    items = _usable(known, client, settings)
    clean = judge_comparisons([c for c, _ in items], client, rubric, asking, calls)
    refuse_failures(clean)
    said = outcomes(clean.judgments).get(client.name, {})
    sides = [_side(said[c.id], better) for c, better in items]
    right = [item for item, side in zip(items, sides, strict=True) if side == "right"]
    tried = attack_set(right, least=settings.least_attacks)
    attacked = judge_comparisons(
        [attack.comparison for attack in tried], client, rubric, asking, calls
    )
    refuse_failures(attacked)
    shares = _share([MARKS[side] for side in sides], [c.prompt.id for c, _ in items])
    return _card(known, rubric, asking, settings, (clean, sides, shares), (attacked, tried))


def plan_qualify(
    client: ChatClient,
    rubric: Rubric,
    known: Labelled,
    calls: CallLog,
    *,
    asking: JudgeSettings,
    settings: QualifySettings,
) -> list[ChatRequest]:
    """Return what `qualify` may have to send, as if the judge got every item right.

    Raises:
        DataError: fewer labelled items than asked for.
    """
    items = _usable(known, client, settings)
    tried = [a.comparison for a in attack_set(items, least=settings.least_attacks)]
    return plan_calls([*(c for c, _ in items), *tried], client, rubric, asking, calls)


def parameters(asking: JudgeSettings) -> dict[str, object]:
    """Return what of the settings changes verdicts: a card is for these alone."""
    return {name: value for name, value in flat(asking).items() if name in PARAMETERS}


def _usable(
    known: Labelled, client: ChatClient, settings: QualifySettings
) -> list[tuple[Comparison, int]]:
    items = [(c, better) for c, better in known.items if not wrote_one(client.name, c)]
    if len(items) < settings.least_items:
        raise DataError(
            f"calibration: {len(items)} items with a human label, {settings.least_items} are "
            f"needed; {len(known.items) - len(items)} hold an answer of the judge, "
            f"{known.undecided} are undecided. Label more."
        )
    return items


def _card(
    known: Labelled,
    rubric: Rubric,
    asking: JudgeSettings,
    settings: QualifySettings,
    clean: tuple[Judged, Sequence[str], Share],
    attacked: tuple[Judged, Sequence[Attacked]],
) -> Card:
    judged, sides, agreement = clean
    wins, by_kind, unparsed = _attack_figures(*attacked)
    tests = {
        "agreement with people": _above(agreement, settings.bar),
        "attacks that win": _below(wins, settings.most_flips),
        "answers with a verdict": _parsed(judged, attacked[0], asking.max_unparsed),
    }
    found = set(tests.values())
    return Card(
        judge=judged.judge,
        rubric=rubric.name,
        rubric_hash=rubric.hash,
        template_hash=template_hash(),
        parameters=parameters(asking),
        calibration=known.hash,
        undecided_by_people=known.undecided,
        right=sides.count("right"),
        wrong=sides.count("wrong"),
        flips=sides.count("flip"),
        ties=sides.count("tie"),
        unparsed=sides.count("unparsed"),
        agreement=agreement,
        bar=settings.bar,
        attacks=wins,
        attacks_unparsed=unparsed,
        most_flips=settings.most_flips,
        by_kind=by_kind,
        verdict="fail" if "fail" in found else "cannot tell" if "cannot tell" in found else "pass",
        reasons=tuple(f"{name}: {outcome}" for name, outcome in tests.items()),
    )


def _attack_figures(
    judged: Judged, tried: Sequence[Attacked]
) -> tuple[Share, dict[str, float], int]:
    said = outcomes(judged.judgments).get(judged.judge, {})
    marks: list[float] = []
    prompts: list[str] = []
    kinds: dict[str, list[float]] = defaultdict(list)
    for attack in tried:
        side = _side(said[attack.comparison.id], attack.place)
        if side != "unparsed":
            marks.append(MARKS[side])
            prompts.append(attack.comparison.prompt.id)
            kinds[attack.kind].append(marks[-1])
    shares = {kind: sum(values) / len(values) for kind, values in sorted(kinds.items())}
    return _share(marks, prompts), shares, len(tried) - len(marks)


def _side(outcome: Outcome, better: int) -> str:
    """Return `right` or `wrong` for a settled outcome, else the outcome itself."""
    if outcome not in SETTLED:
        return outcome
    return "right" if SETTLED[better] == outcome else "wrong"


def _share(values: Sequence[float], prompts: Sequence[str]) -> Share:
    """Return the mean with its interval over prompts; of nothing, nothing is known."""
    return share(values, cluster_places(prompts)) or Share(value=0.0, low=0.0, high=1.0, n=0)


def _above(share: Share, bar: float) -> Passed:
    return "pass" if share.low >= bar else "fail" if share.high < bar else "cannot tell"


def _below(share: Share, most: float) -> Passed:
    return "pass" if share.high <= most else "fail" if share.low > most else "cannot tell"


def _parsed(clean: Judged, attacked: Judged, most: float) -> Passed:
    worst = max(len(j.unparsed) / max(1, len(j.judgments)) for j in (clean, attacked))
    return "pass" if worst <= most else "fail"
