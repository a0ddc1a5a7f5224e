"""How often the candidate beats the baseline, ties apart, with an interval over prompts."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from preftune.errors import DataError
from preftune.evaluation.length import length_controlled_win_rate, length_ratio
from preftune.evaluation.measures import Measure
from preftune.stats.bootstrap import share_interval
from preftune.types import Comparison, Judgment, Response, text_of

WIN, TIE, LOSS = 1.0, 0.5, 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WinSlice:
    """The verdicts on one slice of the prompts; `tag` is empty for all of them."""

    tag: str
    value: float  # (wins + ½ ties) / verdicts
    low: float  # two-sided 95 %, prompts drawn with all their verdicts
    high: float
    wins: int
    ties: int
    losses: int
    prompts: int

    @property
    def verdicts(self) -> int:
        """How many verdicts were counted."""
        return self.wins + self.ties + self.losses


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """The win rate of a candidate over a baseline, and what could flatter it."""

    candidate: str
    baseline: str
    dimension: str
    overall: WinSlice
    slices: tuple[WinSlice, ...]
    comparisons: int  # of these two systems
    unparsed: int  # comparisons that carry no verdict; they count nowhere, never as ½
    candidate_first_frac: float  # how often the candidate was shown first; ½ is balanced
    length_ratio: Measure | None  # None: every baseline reply is empty
    length_controlled: Measure | None  # None: length cannot be told apart from the systems


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verdict:
    prompt_id: str
    tags: tuple[str, ...]
    outcome: float
    delta: float  # length of the candidate's reply minus the baseline's


def characters(response: Response) -> float:
    """Return how many characters the assistant wrote."""
    return float(len(text_of(response.messages)))


def win_rate(
    comparisons: Iterable[Comparison],
    judgments: Iterable[Judgment],
    *,
    candidate: str,
    baseline: str,
    dimension: str = "overall",
    length: Callable[[Response], float] = characters,
    length_unit: str = "characters",
    seed: int = 0,
) -> WinRate:
    """Return (wins + ½ ties) / verdicts of the candidate, ties also apart, clustered by prompt.

    Every judgment of a comparison is a verdict. A judgment that names no winner between the two
    (a rewrite) and a comparison without judgments are unparsed: counted, never ½. Comparisons of
    other systems are left out.

    Args:
        comparisons: what was shown; responses are told apart by `Response.generator`.
        judgments: what was said.
        candidate: generator of the new model.
        baseline: generator of the old one.
        dimension: which judgments count.
        length: measures a reply, for the length ratio and the length-controlled win rate.
        length_unit: what `length` counts.
        seed: of the bootstrap.

    Raises:
        DataError: one name for both, no comparison of the two, no verdict in this dimension, a
            judgment of an unknown comparison, or one id used by two comparisons.
    """
    if candidate == baseline:
        raise DataError(f"win rate: candidate and baseline are both {candidate!r}. Name two.")
    shown = _by_id(comparisons)
    of_two = {
        c.id: sides for c in shown.values() if (sides := _sides(c, candidate, baseline)) is not None
    }
    if not of_two:
        raise _none_of_two(shown.values(), candidate, baseline)
    lengths = {
        c_id: (length(shown[c_id].responses[c]), length(shown[c_id].responses[b]))
        for c_id, (c, b) in of_two.items()
    }
    verdicts, judged = _verdicts(shown, of_two, lengths, judgments, dimension)
    return WinRate(
        candidate=candidate,
        baseline=baseline,
        dimension=dimension,
        overall=_count("", verdicts, seed),
        slices=_slices(verdicts, seed),
        comparisons=len(of_two),
        unparsed=len(of_two) - judged,
        candidate_first_frac=sum(c < b for c, b in of_two.values()) / len(of_two),
        length_ratio=_ratio(shown, lengths, length_unit, seed),
        length_controlled=length_controlled_win_rate(
            wins=[v.outcome for v in verdicts],
            deltas=[v.delta for v in verdicts],
            prompts=[v.prompt_id for v in verdicts],
        ),
    )


def _none_of_two(shown: Iterable[Comparison], candidate: str, baseline: str) -> DataError:
    known = sorted({r.generator or "(none)" for c in shown for r in c.responses})
    return DataError(
        f"win rate: no comparison of {candidate!r} and {baseline!r}. "
        f"Generators in the file: {', '.join(known) or 'none'}."
    )


def outcome_of(judgment: Judgment, *, candidate: int, baseline: int) -> float | None:
    """Return 1 for a win of the candidate, 0 for a loss, ½ for a tie, None for no verdict.

    Args:
        judgment: one rater's verdict.
        candidate: position of the candidate's response as shown, from 0.
        baseline: position of the baseline's.
    """
    match judgment.kind:
        case "tie":
            return TIE
        case "binary":
            chosen = judgment.choice
            return WIN if chosen == candidate else LOSS if chosen == baseline else None
        case "scale":
            grade = judgment.grade or 0
            towards_second = (grade > 4) - (grade < 4)
            return TIE + 0.5 * towards_second * (1 if candidate > baseline else -1)
        case "ranking":
            ranks = {place: rank for rank, group in enumerate(judgment.ranking) for place in group}
            if candidate not in ranks or baseline not in ranks:
                return None
            gap = ranks[baseline] - ranks[candidate]
            return TIE + 0.5 * ((gap > 0) - (gap < 0))
        case _:  # a rewrite names no winner of the two shown
            return None


def _by_id(comparisons: Iterable[Comparison]) -> dict[str, Comparison]:
    found: dict[str, Comparison] = {}
    for comparison in comparisons:
        if found.setdefault(comparison.id, comparison) != comparison:
            raise DataError(
                f"comparison {comparison.id}: two comparisons have this id. Give each its own."
            )
    return found


def _sides(comparison: Comparison, candidate: str, baseline: str) -> tuple[int, int] | None:
    """Return the positions of the two systems, or None when they do not both answer once."""
    names = [response.generator for response in comparison.responses]
    if names.count(candidate) != 1 or names.count(baseline) != 1:
        return None
    return names.index(candidate), names.index(baseline)


def _verdicts(
    shown: dict[str, Comparison],
    of_two: dict[str, tuple[int, int]],
    lengths: dict[str, tuple[float, float]],
    judgments: Iterable[Judgment],
    dimension: str,
) -> tuple[list[_Verdict], int]:
    """Return every verdict, and how many comparisons have one."""
    found: list[_Verdict] = []
    judged: set[str] = set()
    dimensions: set[str] = set()
    for judgment in judgments:
        comparison = shown.get(judgment.comparison_id)
        if comparison is None:
            raise DataError(
                f"judgment {judgment.id}: comparison {judgment.comparison_id} is not there. "
                "Give the comparisons with their judgments."
            )
        dimensions.add(judgment.dimension)
        if judgment.dimension != dimension or comparison.id not in of_two:
            continue
        candidate, baseline = of_two[comparison.id]
        outcome = outcome_of(judgment, candidate=candidate, baseline=baseline)
        if outcome is None:
            continue
        long, short = lengths[comparison.id]
        prompt = comparison.prompt
        judged.add(comparison.id)
        found.append(
            _Verdict(prompt_id=prompt.id, tags=prompt.tags, outcome=outcome, delta=long - short)
        )
    if not found:
        raise DataError(
            f"win rate: no verdict in dimension {dimension!r}. "
            f"Dimensions in the file: {', '.join(sorted(dimensions)) or 'none'}."
        )
    return found, len(judged)


def _count(tag: str, verdicts: Sequence[_Verdict], seed: int) -> WinSlice:
    outcomes = [v.outcome for v in verdicts]
    prompts = [v.prompt_id for v in verdicts]
    interval = share_interval(outcomes, prompts, seed=seed)
    return WinSlice(
        tag=tag,
        value=sum(outcomes) / len(outcomes),
        low=interval.low,
        high=interval.high,
        wins=outcomes.count(WIN),
        ties=outcomes.count(TIE),
        losses=outcomes.count(LOSS),
        prompts=len(set(prompts)),
    )


def _slices(verdicts: Sequence[_Verdict], seed: int) -> tuple[WinSlice, ...]:
    by_tag: dict[str, list[_Verdict]] = defaultdict(list)
    for verdict in verdicts:
        for tag in dict.fromkeys(verdict.tags):
            by_tag[tag].append(verdict)
    return tuple(_count(tag, by_tag[tag], seed) for tag in sorted(by_tag))


def _ratio(
    shown: dict[str, Comparison],
    lengths: dict[str, tuple[float, float]],
    unit: str,
    seed: int,
) -> Measure | None:
    if not any(baseline for _, baseline in lengths.values()):
        return None
    return length_ratio(
        candidate=[candidate for candidate, _ in lengths.values()],
        baseline=[baseline for _, baseline in lengths.values()],
        prompts=[shown[c_id].prompt.id for c_id in lengths],
        unit=unit,
        seed=seed,
    )
