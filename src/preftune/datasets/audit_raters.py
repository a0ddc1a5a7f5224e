"""Who voted, how far they agree, who stands against the others, and which side they favour."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from preftune.datasets.audit_material import Ballot, Material
from preftune.datasets.audit_parts import (
    AuditFinding,
    AuditSection,
    AuditTable,
    Bars,
    Estimate,
    bar,
    number,
    percent,
    share_estimate,
    share_finding,
    shared_level,
)
from preftune.errors import DataError
from preftune.stats.agreement import Level, alpha_interval, cohen_kappa, krippendorff_alpha

REAL_SETS = (
    ("pandalm, curated", 0.861),
    ("tulu, five points", 0.359),
    ("llmfao, ties", 0.304),
    ("ukp arguments", 0.284),
    ("crag, quality", 0.166),
    ("crag, style", 0.063),
)
"""Nominal alpha of votes by people in public sets: .3 is normal."""

FEWEST = 20  # votes, or items in common, before anything is said of a rater
SIDE_MARGIN = 0.05  # a side favoured by less is small beside all other noise
MOST_SHOWN = 40  # rows of a table
MOST_PAIRS = 10  # couples of raters
CROWD = 100  # an item that more raters saw, such as a test question, makes no couples
TIE = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterFigures:
    """What one rater's votes look like; an estimate is None where too little is there."""

    rater: str
    kind: str
    votes: int
    ties: int
    agreement: Estimate | None  # with the majority of the others, both decided
    repeats: Estimate | None  # the same verdict again on the same two responses
    first: Estimate | None  # share of decided votes for the response shown first


def agreement_section(material: Material) -> AuditSection:
    """Return Krippendorff's alpha by kind of rater, dimension and guideline, with intervals."""
    if len({ballot.rater for ballot in material.ballots}) < 2:
        text = "No two raters are named, so nothing can be said. Give --judgments."
        return AuditSection(title="Agreement", text=text)
    groups = _alphas(material)
    findings = tuple(_alpha_finding(label, found) for label, _, found in groups)
    rows = [(label, level, f"{found.n:,}", number(found)) for label, level, found in groups]
    beside = [(name, "nominal", "", f"{alpha:.3f}") for name, alpha in REAL_SETS]
    tables = [
        AuditTable(
            title="Krippendorff's alpha (0: chance, 1: all agree)",
            header=("votes of", "level", "items", "alpha, 95 % interval"),
            rows=tuple(rows),
        ),
        AuditTable(
            title="The same of people's votes in public sets: .3 is normal",
            header=("set", "level", "", "alpha"),
            rows=tuple(beside),
        ),
    ]
    if couples := _couples(material.ballots):
        tables.append(couples)
    drawn = [bar(label, found) for label, _, found in groups]
    drawn += [(name, alpha, alpha, alpha) for name, alpha in REAL_SETS]
    bars = Bars(
        name="agreement",
        title="Agreement beside public sets",
        unit="alpha",
        reference=0.0,
        rows=tuple(drawn),
    )
    text = "" if groups else "No two votes fall on one item: let two raters judge some of them."
    return AuditSection(
        title="Agreement",
        text=text,
        findings=findings,
        tables=tuple(tables) if groups else (),
        bars=(bars,) if groups else (),
    )


def rater_section(material: Material) -> AuditSection:
    """Return what sets each rater apart: agreement with the others, repeats, the side favoured."""
    found = rater_figures(material)
    if not found:
        return AuditSection(title="Raters", text="No rater is named. Give --judgments.")
    shown = sorted(found, key=lambda row: -row.votes)
    findings = [_against_finding(found), *_side_findings(material, found)]
    sides = [bar(row.rater, row.first) for row in shown if row.first][:MOST_SHOWN]
    bars = Bars(
        name="sides",
        title="Votes for the response shown first",
        unit="share of decided votes",
        reference=0.5,
        rows=tuple(sides),
    )
    more = len(shown) - MOST_SHOWN
    return AuditSection(
        title="Raters",
        text=f"The {MOST_SHOWN} raters with most votes; {more:,} more." if more > 0 else "",
        findings=tuple(findings),
        tables=(_rater_table(shown[:MOST_SHOWN]),),
        bars=(bars,) if sides else (),
    )


def rater_figures(material: Material) -> list[RaterFigures]:
    """Return the figures of each rater, in order of their first vote.

    `agreement` compares with the majority of the other raters of the first kind that voted
    (people, where there are any), on items where both decided.
    """
    ballots = material.ballots
    main = material.kinds[0] if material.kinds else "unknown"
    total: Counter[str] = Counter()
    own: Counter[tuple[str, str]] = Counter()
    by_rater: dict[str, list[Ballot]] = defaultdict(list)
    for ballot in _last(ballots):
        if ballot.kind == main:
            total[ballot.unit] += ballot.sign
            own[ballot.rater, ballot.unit] += ballot.sign
    for ballot in ballots:
        by_rater[ballot.rater].append(ballot)
    level = shared_level(len(by_rater))
    found = []
    for rater, said in by_rater.items():
        others = {b.unit: total[b.unit] - own[rater, b.unit] for b in said}
        found.append(_figures(material, rater, said, others, level=level))
    return found


def _figures(
    material: Material,
    rater: str,
    said: Sequence[Ballot],
    others: dict[str, int],
    *,
    level: float,
) -> RaterFigures:
    last = [ballot for ballot in _last(said) if ballot.sign]
    compared = [b for b in last if others[b.unit]]
    agreed = [float((others[b.unit] > 0) == (b.sign > 0)) for b in compared]
    decided = [b for b in said if b.sign and b.swapped is not None]
    first = [float((b.sign > 0) != b.swapped) for b in decided]
    again = list(_again(said))
    return RaterFigures(
        rater=rater,
        kind=said[0].kind,
        votes=len(said),
        ties=sum(b.sign == TIE for b in said),
        agreement=_if_enough(agreed, material.clusters(compared), level),
        repeats=_if_enough([float(same) for _, same in again], [u for u, _ in again], level),
        first=_if_enough(first, material.clusters(decided), level),
    )


def _if_enough(values: Sequence[float], clusters: Sequence[str], level: float) -> Estimate | None:
    if len(values) < FEWEST:
        return None
    return share_estimate(values, clusters, level=level)


def _last(ballots: Iterable[Ballot]) -> list[Ballot]:
    """Return the last vote of each rater on each item and order."""
    return list({(b.rater, b.unit, b.swapped): b for b in ballots}.values())


def _again(said: Iterable[Ballot]) -> Iterable[tuple[str, bool]]:
    """Yield, for every later vote of one rater on an item, whether it says the same."""
    before: dict[str, Ballot] = {}
    for ballot in said:
        if (earlier := before.get(ballot.unit)) is not None:
            yield ballot.unit, earlier.sign == ballot.sign
        before[ballot.unit] = ballot


def _alphas(material: Material) -> list[tuple[str, Level, Estimate]]:
    """Return (label, level, alpha) of every group of votes that can be compared."""
    groups: dict[str, list[Ballot]] = {}
    for kind in material.kinds:
        of_kind = [b for b in material.ballots if b.kind == kind]
        for dimension in dict.fromkeys(b.dimension for b in of_kind):
            groups[f"{kind}: {dimension}"] = [b for b in of_kind if b.dimension == dimension]
        guidelines = dict.fromkeys(b.guideline for b in of_kind if b.guideline)
        for guideline in guidelines if len(guidelines) > 1 else ():
            label = f"{kind}: guideline {guideline}"
            groups[label] = [b for b in of_kind if b.guideline == guideline]
    found = ((label, *_alpha(ballots)) for label, ballots in groups.items())
    return [(label, level, alpha) for label, level, alpha in found if alpha is not None]


def _alpha(ballots: Sequence[Ballot]) -> tuple[Level, Estimate | None]:
    """Return alpha, ordinal where anybody graded, and None where nothing can be compared."""
    level: Level = "ordinal" if any(abs(b.value) > 1 for b in ballots) else "nominal"
    votes = [(b.unit, b.rater, b.value) for b in ballots]
    try:
        alpha = krippendorff_alpha(votes, level=level)
        low, high = alpha_interval(votes, level=level)
    except DataError:  # no two votes on one item, or every vote the same
        return level, None
    raters = Counter(unit for unit, _ in {(b.unit, b.rater) for b in ballots})
    items = sum(count > 1 for count in raters.values())
    return level, Estimate(value=alpha, low=low, high=high, n=items)


def _alpha_finding(label: str, found: Estimate) -> AuditFinding:
    chance = found.low <= 0
    what = f"Votes of {label} agree"
    if chance:
        what += ", but no more than chance might give"
    return share_finding(
        "agreement",
        found,
        what=what,
        verdict="look" if chance else "ok",
        fix="Read the items they split on together and sharpen the guideline.",
        shown=f"alpha {number(found)}",
    )


def _couples(ballots: Sequence[Ballot]) -> AuditTable | None:
    """Return the couples of raters with most items in common."""
    on_unit: dict[str, dict[str, Ballot]] = defaultdict(dict)
    for ballot in ballots:
        on_unit[ballot.unit][ballot.rater] = ballot
    shared: Counter[tuple[str, str]] = Counter()
    for votes in on_unit.values():
        if len(votes) <= CROWD:
            shared.update(combinations(sorted(votes), 2))
    rows = []
    for couple, count in shared.most_common(MOST_PAIRS):
        both = [
            [votes[name].sign for name in couple]
            for votes in on_unit.values()
            if {*couple} <= votes.keys()
        ]
        if count >= FEWEST and (kappa := _kappa(both)) is not None:
            rows.append((" and ".join(couple), f"{count:,}", number(kappa)))
    if not rows:
        return None
    header = ("raters", "items in common", "kappa, 95 % interval")
    return AuditTable(title="Rater by rater: Cohen's kappa", header=header, rows=tuple(rows))


def _kappa(both: Sequence[Sequence[int]]) -> Estimate | None:
    """Return Cohen's kappa of two raters; the interval takes chance agreement as known."""
    one, other = zip(*both, strict=True)
    same = share_estimate([float(a == b) for a, b in both], range(len(both)))
    if len({*one, *other}) == 1:
        return None
    value = cohen_kappa(one, other)
    scale = (1 - value) / (1 - same.value) if same.value < 1 else 1.0
    low, high = (1 - scale * (1 - share) for share in (same.low, same.high))
    return Estimate(value=value, low=low, high=high, n=same.n)


def _against_finding(found: Sequence[RaterFigures]) -> AuditFinding:
    """Return who contradicts the others more often than not, all intervals holding together."""
    told = [row for row in found if row.agreement is not None]
    against = [row for row in told if row.agreement and row.agreement.side() < 0]
    named = ", ".join(row.rater for row in against[:5])
    what = f"contradict the other raters more often than not: {named}"
    if not against:
        what = f"None of {len(told):,} raters contradicts the others more often than not"
    return AuditFinding(
        kind="rater_against_others",
        what=f"{len(against):,} {what}" if against else what,
        size=f"{len(against):,} of {len(told):,} raters",
        verdict="stop" if against else "ok",
        fix="Look at their votes; then leave them out: --without RATER." if against else "",
        value=float(len(against)),
        n=len(told),
    )


def _side_findings(material: Material, found: Sequence[RaterFigures]) -> list[AuditFinding]:
    """Return the side favoured by each kind of rater, and by single raters."""
    made = []
    for kind in material.kinds:
        voted = [b for b in material.ballots if b.kind == kind and b.sign]
        known = [b for b in voted if b.swapped is not None]
        if len(known) >= FEWEST:
            first = [float((b.sign > 0) != b.swapped) for b in known]
            estimate = share_estimate(first, material.clusters(known))
            made.append(_side_finding(f"{kind} raters", estimate))
    told = [row for row in found if row.first is not None]
    turned = [row for row in told if row.first and row.first.side(margin=SIDE_MARGIN)]
    if len(told) > 1:
        shown = "; ".join(f"{r.rater} {percent(r.first)}" for r in turned[:5] if r.first)
        made.append(
            AuditFinding(
                kind="rater_side",
                what=f"Raters who favour one side: {shown or 'none'}",
                size=f"{len(turned):,} of {len(told):,} raters",
                verdict="look" if turned else "ok",
                fix="Show both orders, or shuffle sides; a rater model can correct for it."
                if turned
                else "",
                value=float(len(turned)),
                n=len(told),
            )
        )
    return made


def _side_finding(who: str, estimate: Estimate) -> AuditFinding:
    side = estimate.side(margin=SIDE_MARGIN)
    word = {1: "FIRST", -1: "SECOND", 0: "first"}[side]
    return share_finding(
        "side",
        estimate,
        what=f"How often {who} who decide take the response shown first",
        verdict="look" if side else "ok",
        fix=f"They favour the {word}. Shuffle sides, show both orders, or correct for it.",
    )


def _rater_table(rows: Sequence[RaterFigures]) -> AuditTable:
    def said(estimate: Estimate | None) -> str:
        return percent(estimate) if estimate else "too few"

    return AuditTable(
        title="Raters; intervals hold for all of them together (Bonferroni)",
        header=("rater", "kind", "votes", "ties", "agrees with others", "with self", "first side"),
        rows=tuple(
            (
                row.rater,
                row.kind,
                f"{row.votes:,}",
                f"{row.ties / row.votes:.0%}",
                said(row.agreement),
                said(row.repeats),
                said(row.first),
            )
            for row in rows
        ),
    )
