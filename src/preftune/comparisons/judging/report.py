"""What a run of judges left behind: the judgments, the comparisons for people, counts, a plot."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from preftune.comparisons.judging.alarms import (
    Sign,
    bias_signs,
    constant_answers,
    flip_signs,
    self_preference,
)
from preftune.comparisons.judging.panel import (
    Agreement,
    agreement_matrix,
    flips,
    is_odds,
    outcomes,
)
from preftune.comparisons.judging.powered import WinRate, win_rates
from preftune.comparisons.judging.run import Judged, JudgeSettings
from preftune.files import atomic_open, write_json
from preftune.plots import BLUE, MUTED, RED, figure, save
from preftune.records import encode
from preftune.types import Comparison, Judgment, Record

MOST_FLIPS = 0.25
"""An alarm when the lower end of a judge's flip share is above this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReport:
    """One run: what each judge did, the signs to look at, the judges' agreement."""

    comparisons: int
    judges: dict[str, dict[str, int]]
    spelt_out: dict[str, int]
    signs: list[Sign]
    agreement: list[Agreement]
    win_rates: list[WinRate]
    for_people: int
    cost_usd: float
    guideline: str

    @property
    def alarms(self) -> list[Sign]:
        """The signs that are alarms."""
        return [sign for sign in self.signs if sign.alarm]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The files of a run."""

    judgments: Path
    for_people: Path | None
    report: Path
    plot: Path | None


def report_of(
    comparisons: Sequence[Comparison],
    judged: Sequence[Judged],
    settings: JudgeSettings,
    *,
    people: Sequence[Judgment] = (),
    cost_usd: float = 0.0,
) -> JudgeReport:
    """Return the report of one judge or a panel over the same comparisons, in their first order.

    Args:
        comparisons: in their first order.
        judged: of each judge.
        settings: how they were asked.
        people: labels of people on some of the comparisons, in the dimension that was judged.
        cost_usd: spent so far.
    """
    shown = _unique(c for one in judged for c in one.comparisons)
    judgments = [j for one in judged for j in one.judgments]
    found = outcomes(judgments)
    signs = bias_signs(judgments, shown, dimension=judged[0].dimension)
    signs += flip_signs(found, _first_orders(shown), most=MOST_FLIPS)
    for one in judged:
        own, kept = len(one.self_judged), settings.keep_self_judged
        signs += self_preference(one.judge, own, len(comparisons), kept=kept)
    signs += constant_answers(comparisons)
    spelt = sum((Counter(one.spelt_out) for one in judged), Counter[str]())
    return JudgeReport(
        comparisons=len(comparisons),
        judges={one.judge: _counts(one, found.get(one.judge, {})) for one in judged},
        spelt_out=dict(spelt),
        signs=signs,
        agreement=agreement_matrix(found),
        win_rates=win_rates(comparisons, judgments, people),
        for_people=len(flips(comparisons, found)),
        cost_usd=cost_usd,
        guideline=judged[0].guideline,
    )


def write_judged(
    out: Path,
    comparisons: Sequence[Comparison],
    judged: Sequence[Judged],
    report: JudgeReport,
) -> Written:
    """Write the judgments with the comparisons they are on, the flips, the report and its plot.

    `out` holds every comparison in the orders shown and the judgments on them;
    `OUT.people.jsonl` the comparisons that a judge decided by place alone; `OUT.report.json` the
    report; `OUT.bias.svg` place and length. Files of an earlier run that have nothing to say now
    are taken away.
    """
    shown = _unique(c for one in judged for c in one.comparisons)
    judgments = [j for one in judged for j in one.judgments]
    settle = flips(comparisons, outcomes(judgments))
    people, plot = beside(out, "people.jsonl"), beside(out, "bias.svg")
    write_records(out, [*shown, *judgments])
    report_path = beside(out, "report.json")
    write_json(report_path, asdict(report))
    has_plot = draw_bias(report.signs, plot)
    for path, needed in ((people, bool(settle)), (plot, has_plot)):
        if not needed:
            path.unlink(missing_ok=True)
    if settle:
        write_records(people, settle)
    return Written(
        judgments=out,
        for_people=people if settle else None,
        report=report_path,
        plot=plot if has_plot else None,
    )


def draw_bias(signs: Iterable[Sign], path: Path) -> bool:
    """Draw each judge's share for the first place and the longer answer; False: no such sign."""
    kept = [sign for sign in signs if sign.kind in ("position", "length")]
    if not kept:
        return False
    drawn, axes = figure(height=1.2 + 0.35 * len(kept))
    axis = axes[0]
    for row, sign in enumerate(reversed(kept)):
        colour = RED if sign.alarm else BLUE
        axis.plot([sign.low, sign.high], [row, row], color=colour, linewidth=2)
        axis.plot([sign.share], [row], "o", color=colour, markersize=5)
    axis.axvline(0.5, color=MUTED, linewidth=1, linestyle="--")
    names = {"position": "first place", "length": "longer answer"}
    labels = [f"{_plain(s.who)}: {names[s.kind]}" for s in reversed(kept)]
    axis.set_yticks(range(len(kept)), labels=labels, fontsize=8, parse_math=False)
    axis.set_ylim(-0.6, len(kept) - 0.4)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of decided verdicts, 95 % interval; red: alarm", fontsize=8)
    save(drawn, path)
    return True


def _counts(one: Judged, said: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(said.values())
    return {
        "questions": len(one.comparisons),
        "asked": one.tally.asked,
        "from the log": one.tally.reused,
        "prompt tokens": one.tally.prompt_tokens,
        "completion tokens": one.tally.completion_tokens,
        "first": counts["first"],
        "second": counts["second"],
        "tie": counts["tie"],
        "flip": counts["flip"],
        "unparsed": counts["unparsed"],
        "unparsed answers": len(one.unparsed),
        "by log-probabilities": sum(is_odds(j.scores) for j in one.judgments),
        "identical, not asked": len(one.identical),
        "its own answers": len(one.self_judged),
    }


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, the whole file or nothing."""
    with atomic_open(path) as file:
        for record in records:
            file.write(encode(record))


def beside(out: Path, kind: str) -> Path:
    """Return the file of this kind that lies beside `out`: judgments.jsonl, judgments.KIND."""
    stem = out.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    return out.with_name(f"{stem}.{kind}")


def _unique(comparisons: Iterable[Comparison]) -> list[Comparison]:
    return list({c.id: c for c in comparisons}.values())


def _first_orders(comparisons: Iterable[Comparison]) -> list[Comparison]:
    return list({(b := _base(c)).id: b for c in comparisons}.values())


def _base(comparison: Comparison) -> Comparison:
    return comparison.swap() if "~" in comparison.id else comparison


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:48]
