"""What best-of-n gained and cost: quality for every k up to n, and what a saving rule lost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preftune.files import write_json
from preftune.inference.best_of_n import Best, Draw, highest
from preftune.stats.best_of_n import (
    CurvePoint,
    curve,
    expected_best,
    expected_win,
    kl_upper_bound,
    win_rate_upper_bound,
)
from preftune.stats.bootstrap import mean_interval, share_interval
from preftune.text import visible


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What the best of k is expected to be; None where these draws cannot tell.

    A win rate needs a draw beside the k, so there is none at the largest k.
    """

    k: int
    kl_upper_bound: float
    win_rate_upper_bound: float
    score: CurvePoint
    win_rate: CurvePoint | None
    gold: CurvePoint | None
    gold_win_rate: CurvePoint | None
    tokens: float | None
    slowest_tokens: CurvePoint | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a saving rule saved and lost, measured on the prompts that were drawn in full.

    `frac` is the share of their tokens (of their responses, without a count) that the rule does
    not draw; `lost_frac` how often it misses the winner; `lost_score` what that costs on average.
    """

    checked: int
    frac: float
    lost_frac: float
    lost_frac_low: float
    lost_frac_high: float
    lost_score: float
    lost_score_low: float | None
    lost_score_high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfNReport:
    """One run of best-of-n. Counts are responses where nothing else is said."""

    n: int
    prompts: int
    generator: str
    scorer: str
    gold: str
    responses: int
    rejected: int  # given up early
    unscored: int
    gold_unscored: int
    unfinished: int  # cut at the longest length
    failed: tuple[str, ...]  # prompts none of whose responses could be scored
    curve_prompts: int  # that the rows speak of
    tokens: int | None  # of all that was drawn
    rows: tuple[Row, ...]
    saved: Saved | None
    notes: tuple[str, ...]


def make_report(
    bests: Sequence[Best],
    *,
    n: int,
    names: tuple[str, str, str],
    saving: str = "",
) -> BestOfNReport:
    """Return the report of these prompts.

    Args:
        bests: what was drawn and chosen.
        n: how many were asked for per prompt.
        names: of the generator, the scorer, and the gold scorer ("" without one).
        saving: the rule that saved draws depending on their scores; then only prompts that were
            drawn in full tell what the best of k is. "deadline" looks at no score.
    """
    by_score = saving not in ("", "deadline")
    told = [best for best in bests if best.checked or not by_score]
    draws = [draw for best in bests for draw in best.draws]
    saved = _saved([best for best in bests if best.checked], n)
    return BestOfNReport(
        n=n,
        prompts=len(bests),
        generator=names[0],
        scorer=names[1],
        gold=names[2],
        responses=len(draws),
        rejected=sum(best.rejected for best in bests if not best.checked),
        unscored=sum(draw.score is None for draw in draws),
        gold_unscored=sum(draw.gold is None for draw in draws) if names[2] else 0,
        unfinished=sum(not draw.response.finished for draw in draws),
        failed=tuple(best.prompt_id for best in bests if best.winner is None),
        curve_prompts=len(told),
        tokens=_sum(
            [*(d.tokens for d in draws), *(b.extra_tokens - b.drawn_tokens for b in bests)]
        ),
        rows=tuple(_rows(told)),
        saved=saved,
        notes=tuple(_notes(bests, n, saving, saved)),
    )


def report_lines(report: BestOfNReport) -> Iterator[str]:
    """Yield the report as lines for a terminal; rows at k = 1, 2, 4, … and the last."""
    yield (
        f"best of {report.n} for {report.prompts} prompts: {report.responses} responses drawn"
        + (f", {report.tokens} tokens" if report.tokens is not None else "")
    )
    counts = {
        "given up early": report.rejected,
        "not scored": report.unscored,
        "without a gold score": report.gold_unscored,
        "cut at the longest length": report.unfinished,
    }
    found = [f"{count} {what}" for what, count in counts.items() if count]
    if found:
        yield "of these " + ", ".join(found) if not report.rejected else ", ".join(found)
    if report.failed:
        shown = ", ".join(visible(id_) for id_ in report.failed[:5])
        more = f" and {len(report.failed) - 5} more" if len(report.failed) > 5 else ""
        yield f"error: {len(report.failed)} prompts have no scored response: {shown}{more}"
    if report.saved is not None:
        yield _saved_line(report.saved)
    yield from report.notes
    if report.rows:
        yield f"expected of the best of k, from {report.curve_prompts} prompts, 95 % intervals:"
        yield from _table(report)


def write_report(report: BestOfNReport, path: Path) -> None:
    """Write the report as JSON."""
    write_json(path, report)


def _rows(bests: Sequence[Best]) -> Iterator[Row]:
    """Yield the row of every k; a prompt without a scored draw has no say."""
    score = curve(_each(bests, _scores, expected_best))
    win = curve(_each(bests, _scores, expected_win))
    gold = curve(_each(bests, _golds, expected_best))
    gold_win = curve(_each(bests, _golds, expected_win))
    slowest = curve(_each(bests, _tokens, expected_best))
    for place, point in enumerate(score):
        yield Row(
            k=point.k,
            kl_upper_bound=kl_upper_bound(point.k),
            win_rate_upper_bound=win_rate_upper_bound(point.k),
            score=point,
            win_rate=_at(win, place),
            gold=_at(gold, place),
            gold_win_rate=_at(gold_win, place),
            tokens=point.k * slowest[0].mean if slowest else None,
            slowest_tokens=_at(slowest, place),
        )


Numbers = list[tuple[float, float]]  # what chooses, and what the choice is worth


def _scores(draws: Sequence[Draw]) -> Numbers:
    return [(draw.score, draw.score) for draw in draws if draw.score is not None]


def _golds(draws: Sequence[Draw]) -> Numbers:
    return [
        (draw.score, draw.gold)
        for draw in draws
        if draw.score is not None and draw.gold is not None
    ]


def _tokens(draws: Sequence[Draw]) -> Numbers:
    return [(float(draw.tokens), float(draw.tokens)) for draw in draws if draw.tokens is not None]


def _each(
    bests: Sequence[Best],
    numbers: Callable[[Sequence[Draw]], Numbers],
    estimate: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Return the estimate of each prompt that has numbers."""
    found = [np.array(numbers(best.draws), dtype=np.float64) for best in bests]
    return [estimate(x[:, 0], x[:, 1]) for x in found if len(x)]


def _at(points: Sequence[CurvePoint], place: int) -> CurvePoint | None:
    return points[place] if place < len(points) else None


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _saved(checked: Sequence[Best], n: int) -> Saved | None:
    """Return what the rule saves and loses on the prompts that were drawn in full."""
    told = [best for best in checked if best.winner is not None]
    if not told:
        return None
    lost = [_lost_score(best) for best in told]
    ids = [best.prompt_id for best in told]
    share = share_interval([float(loss > 0) for loss in lost], ids)
    ends = mean_interval(lost, ids) if len(lost) > 1 else None
    full = _sum([draw.tokens for best in told for draw in best.draws])
    taken = _sum([best.tokens for best in told])
    kept = sum(draw.kept for best in told for draw in best.draws)
    return Saved(
        checked=len(told),
        frac=1 - (taken / full if full and taken is not None else kept / (n * len(told))),
        lost_frac=float(np.mean([loss > 0 for loss in lost])),
        lost_frac_low=share.low,
        lost_frac_high=share.high,
        lost_score=float(np.mean(lost)),
        lost_score_low=ends.low if ends else None,
        lost_score_high=ends.high if ends else None,
    )


def _lost_score(best: Best) -> float:
    """Return how much lower the best of the kept draws scores; against the worst, if none does."""
    scores = [draw.score for draw in best.draws if draw.score is not None]
    kept = highest([draw for draw in best.draws if draw.kept])
    return max(scores) - (min(scores) if kept is None or kept.score is None else kept.score)


def _notes(bests: Sequence[Best], n: int, saving: str, saved: Saved | None) -> Iterator[str]:
    """Yield what a reader of the figures must know."""
    if n == 1:
        yield "n = 1 is plain sampling: nothing is chosen"
    scores = [[d.score for d in best.draws if d.score is not None] for best in bests]
    several = [own for own in scores if len(own) > 1]
    flat = sum(len(set(own)) == 1 for own in several)
    if flat:
        what = "no signal, the first response is taken" if flat == len(several) else "the first won"
        yield f"{flat} of {len(several)} prompts: all their scores are equal: {what}"
    fewest = min(len(best.draws) for best in bests)
    if saving == "deadline" and fewest < n:
        yield f"time was up: the best of {fewest} of {n} responses per prompt"
    if saving not in ("", "deadline") and saved is None:
        yield f"{saving}: what it lost is not known, no prompt was drawn in full (check_frac)"


def _saved_line(saved: Saved) -> str:
    ends = ""
    if saved.lost_score_low is not None and saved.lost_score_high is not None:
        ends = f" ({saved.lost_score_low:.4f} to {saved.lost_score_high:.4f})"
    return (
        f"saved {saved.frac:.1%}; lost the winner of {saved.lost_frac:.1%} of the prompts "
        f"({saved.lost_frac_low:.1%} to {saved.lost_frac_high:.1%}), {saved.lost_score:.4f}{ends} "
        f"of the score on average: measured on {saved.checked} prompts drawn in full"
    )


def _table(report: BestOfNReport) -> Iterator[str]:
    """Yield the rows under a header; a column that no row has is left out."""
    columns: dict[str, Callable[[Row], str]] = {
        "k": lambda row: str(row.k),
        "KL upper bound": lambda row: f"{row.kl_upper_bound:.4f}",
        "score": lambda row: _point(row.score),
        "win rate": lambda row: _point(row.win_rate),
        "gold": lambda row: _point(row.gold),
        "gold win rate": lambda row: _point(row.gold_win_rate),
        "tokens": lambda row: "" if row.tokens is None else f"{row.tokens:.1f}",
        "longest": lambda row: _point(row.slowest_tokens, digits=1),
    }
    last = report.rows[-1].k
    shown = [row for row in report.rows if row.k == last or row.k & (row.k - 1) == 0]
    cells = {name: [cell(row) for row in shown] for name, cell in columns.items()}
    wide = {name: max(len(name), *map(len, texts)) for name, texts in cells.items() if any(texts)}
    yield "  ".join(name.rjust(width) for name, width in wide.items())
    for place in range(len(shown)):
        yield "  ".join(cells[name][place].rjust(width) for name, width in wide.items())


def _point(point: CurvePoint | None, *, digits: int = 4) -> str:
    if point is None:
        return ""
    ends = "" if point.low is None else f" ({point.low:.{digits}f} to {point.high:.{digits}f})"
    return f"{point.mean:.{digits}f}{ends}"
