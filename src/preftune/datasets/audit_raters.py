"""Who voted, how far they agree, who stands against the others, and which side they favour."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from preftune.comparisons.bias import position_bias
from preftune.comparisons.rater_figures import first_shares, majority_shares, repeat_shares
from preftune.comparisons.vote_table import VoteTable
from preftune.datasets.audit_material import Ballot, Material, vote_columns
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
from preftune.stats.shares import Share

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
    findings = [_against_finding(found, material.kinds[0]), *_side_findings(material, found)]
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
    (people, where there are any), on items where both decided. Intervals hold for all raters
    together.
    """
    ballots = material.ballots
    if not ballots:
        return []
    votes = vote_columns(material, ballots)
    level = shared_level(len(votes.raters))
    agreement = majority_shares(votes, kind=material.kinds[0], level=level)
    repeats = repeat_shares(votes, level=level)
    first = first_shares(_with_sides(votes, ballots), level=level)
    count = len(votes.raters)
    said = np.bincount(votes.rater, minlength=count).tolist()
    ties = np.bincount(votes.rater, votes.shown == TIE, minlength=count).tolist()
    return [
        RaterFigures(
            rater=rater,
            kind=votes.kinds[k],
            votes=said[k],
            ties=int(ties[k]),
            agreement=_if_enough(agreement[k]),
            repeats=_if_enough(repeats[k]),
            first=_if_enough(first[k]),
        )
        for k, rater in enumerate(votes.raters)
    ]


def _with_sides(votes: VoteTable, ballots: Sequence[Ballot]) -> VoteTable:
    """Return the votes of which it is known what was shown first."""
    return votes.where(np.array([ballot.swapped is not None for ballot in ballots], dtype=bool))


def _if_enough(share: Share | None) -> Estimate | None:
    if share is None or share.n < FEWEST:
        return None
    return Estimate(value=share.value, low=share.low, high=share.high, n=share.n)


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
    found = ((label, *_alpha(material, ballots)) for label, ballots in groups.items())
    return [(label, level, alpha) for label, level, alpha in found if alpha is not None]


def _alpha(material: Material, ballots: Sequence[Ballot]) -> tuple[Level, Estimate | None]:
    """Return alpha, ordinal where anybody graded, and None where nothing can be compared."""
    level: Level = "ordinal" if any(abs(b.value) > 1 for b in ballots) else "nominal"
    votes = [(b.unit, b.rater, b.value) for b in ballots]
    cluster_of = dict(zip((b.unit for b in ballots), material.clusters(ballots), strict=True))
    try:
        alpha = krippendorff_alpha(votes, level=level)
        low, high = alpha_interval(votes, level=level, cluster_of=cluster_of)
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


def _against_finding(found: Sequence[RaterFigures], main: str) -> AuditFinding:
    """Return who contradicts the others more often than not, all intervals holding together.

    It stops the training where these votes make the pairs: those of the kind `main`.
    """
    told = [row for row in found if row.agreement is not None]
    against = [row for row in told if row.agreement and row.agreement.side() < 0]
    named = ", ".join(row.rater for row in against[:5]) + ", …" * (len(against) > 5)
    harmful = any(row.kind == main for row in against)
    what = f"Raters who contradict the other {main} raters more often than not: {named or 'none'}"
    if not told:
        what = f"Nobody shares {FEWEST} decided items with other raters: nothing to compare"
    fix = "Look at their votes; then leave them out: --without RATER."
    if against and not harmful:
        fix = f"Do not ask them again. The pairs are made of votes of kind {main}, not of theirs."
    return AuditFinding(
        kind="rater_against_others",
        what=what,
        size=f"{len(against):,} of {len(told):,} raters",
        verdict="stop" if harmful else "look" if against else "ok",
        fix=fix if against else "",
        value=float(len(against)),
        n=len(told),
    )


def _side_findings(material: Material, found: Sequence[RaterFigures]) -> list[AuditFinding]:
    """Return the side favoured by each kind of rater, and by single raters; a rule sees no side."""
    sides = _with_sides(vote_columns(material, material.ballots), material.ballots)
    seeing = sides.where(
        np.array([kind != "rule" for kind in sides.kinds], dtype=bool)[sides.rater]
    )
    leans = [(lean.who, _if_enough(lean.share)) for lean in position_bias(seeing, by="kind")]
    made = [_side_finding(f"{kind} raters", taken) for kind, taken in leans if taken is not None]
    told = [row for row in found if row.first is not None and row.kind != "rule"]
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
        what=f"Decided votes of {who}, all together, for the response shown first",
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
