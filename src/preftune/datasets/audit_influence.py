"""Poisoning hints: what rests on one rater alone, and phrases that decide for one rater only."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from preftune.datasets.audit_material import Ballot, Material, joined
from preftune.datasets.audit_parts import (
    AuditFinding,
    AuditSection,
    AuditTable,
)
from preftune.datasets.audit_phrases import EVERYBODY, Choice, Phrase, deciding_phrases
from preftune.errors import DataError
from preftune.types import PreferencePair, text_of

MOST_SHOWN = 20  # rows of a table
HEAVY = 0.2  # of all decisions, in a set of many raters, is a lot to rest on one
MANY = 10  # raters

Wins = Counter[tuple[str, str]]
"""(generator, "won" or "games") → how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Influence:
    """What would change without one rater."""

    rater: str
    votes: int
    alone: int  # items on which only they decided: their pairs would be gone
    tipped: int  # items whose majority would turn or become a tie
    items: int  # items with a decision, of all raters
    shift: float  # the largest change of a generator's win rate, 0..1
    generator: str  # whose it is; empty where generators are not named

    @property
    def share(self) -> float:
        """Share of all decisions that rest on this rater."""
        return (self.alone + self.tipped) / self.items


def influence_section(material: Material) -> AuditSection:
    """Return what rests on single raters, and phrases that decide for one of them or for all."""
    main = material.kinds[:1]
    ballots = [ballot for ballot in material.ballots if ballot.kind in main]
    found = influences(ballots)
    phrases = deciding_phrases(choices(material), material.words)
    tables = []
    if found:
        tables.append(_influence_table(found[:MOST_SHOWN]))
    if phrases:
        tables.append(_phrase_table(phrases[:MOST_SHOWN]))
    findings = [_heavy_finding(found)] if found else []
    findings += _phrase_findings(phrases, named=bool(found))
    text = "" if found else "No rater is named, so influence is not told. Give --judgments."
    return AuditSection(
        title="Poisoning hints", text=text, findings=tuple(findings), tables=tuple(tables)
    )


def influences(ballots: Sequence[Ballot]) -> list[Influence]:
    """Return what would change without each rater, the most influential first."""
    last = list({(b.unit, b.rater, b.swapped): b for b in ballots}.values())
    total: Counter[str] = Counter()
    own: dict[str, Counter[str]] = defaultdict(Counter)
    voters: dict[str, set[str]] = defaultdict(set)
    for ballot in last:
        total[ballot.unit] += ballot.sign
        own[ballot.rater][ballot.unit] += ballot.sign
        voters[ballot.unit].add(ballot.rater)
    decided = {unit: sign for unit, sign in total.items() if sign}
    wins, votes = _generator_wins(last), Counter(ballot.rater for ballot in last)
    all_wins: Wins = sum(wins.values(), Counter())
    found = []
    for rater, said in own.items() if decided else ():
        mine = [unit for unit in said if unit in decided]
        alone = sum(len(voters[unit]) == 1 for unit in mine)
        left = {unit: decided[unit] - said[unit] for unit in mine}
        turned = sum(_sign(left[unit]) != _sign(decided[unit]) for unit in mine)
        shift, generator = _largest_shift(all_wins, wins[rater])
        found.append(
            Influence(
                rater=rater,
                votes=votes[rater],
                alone=alone,
                tipped=turned - alone,
                items=len(decided),
                shift=shift,
                generator=generator,
            )
        )
    return sorted(found, key=lambda row: -row.share)


def choices(material: Material) -> list[Choice]:
    """Return every decided choice between two texts, with whoever made it."""
    if any(any(ballot.texts) for ballot in material.ballots):
        return [
            Choice(
                rater=ballot.rater,
                prompt=ballot.prompt,
                better=ballot.texts[0 if ballot.value > 0 else 1],
                worse=ballot.texts[1 if ballot.value > 0 else 0],
            )
            for ballot in material.ballots
            if ballot.sign
        ]
    return [
        Choice(
            rater=EVERYBODY,
            prompt=p.prompt,
            better=text_of(p.pair.chosen),
            worse=text_of(p.pair.rejected),
        )
        for p in material.pairs
    ]


def without_raters(material: Material, raters: Sequence[str]) -> list[PreferencePair]:
    """Return the dataset rebuilt as if these raters had never voted; twice the same pairs.

    With judgments the votes of the others are joined anew. Without them every pair that names one
    of the raters is left out, for nobody knows what the others would have made of it.

    Raises:
        DataError: a rater who is not there, or nothing left.
    """
    named = {ballot.rater for ballot in material.ballots}
    named |= {rater for p in material.pairs for rater in p.pair.provenance.raters}
    if unknown := sorted(set(raters) - named):
        raise DataError(
            f"--without {unknown[0]}: no such rater here. The raters are: "
            f"{', '.join(sorted(named)[:10]) or 'not named'}."
        )
    if material.judgments and material.comparisons:
        kept = [j for j in material.judgments if j.rater.id not in raters]
        pairs = joined(material.comparisons, kept)[0] if kept else []
    else:
        pairs = [p.pair for p in material.pairs if not set(raters) & set(p.pair.provenance.raters)]
    if not pairs:
        raise DataError(f"--without {', '.join(raters)}: no pair is left. Leave fewer raters out.")
    return pairs


def _generator_wins(ballots: Sequence[Ballot]) -> dict[str, Wins]:
    """Return, per rater, twice the wins (a tie is one) and twice the games of each generator."""
    found: dict[str, Wins] = defaultdict(Counter)
    for ballot in ballots:
        first, second = ballot.generators
        if first is not None and second is not None and first != second:
            for name, score in ((first, 1 + ballot.sign), (second, 1 - ballot.sign)):
                found[ballot.rater][name, "won"] += score
                found[ballot.rater][name, "games"] += 2
    return found


def _largest_shift(wins: Wins, own: Wins) -> tuple[float, str]:
    """Return how far a generator's win rate moves at most without these votes, and whose it is."""
    shifts = [(0.0, "")]
    for name in {name for name, _ in own}:
        won, games = wins[name, "won"], wins[name, "games"]
        if left := games - own[name, "games"]:
            shifts.append((abs(won / games - (won - own[name, "won"]) / left), name))
    return max(shifts)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _heavy_finding(found: Sequence[Influence]) -> AuditFinding:
    """Return whether too much rests on one rater, in a set of many."""
    top = found[0]
    heavy = len(found) >= MANY and top.share > HEAVY
    return AuditFinding(
        kind="influence",
        what=f"Decisions that rest on one rater alone, at most: {top.rater}",
        size=f"{top.share:.1%} of {top.items:,} decisions",
        verdict="look" if heavy else "ok",
        fix="Give some of their items to other raters as well." if heavy else "",
        value=top.share,
        n=top.items,
    )


def _phrase_findings(phrases: Sequence[Phrase], *, named: bool) -> list[AuditFinding]:
    """Return the phrases that lead one rater, a finding per rater, and rare ones that lead all."""
    of_rater: dict[str, list[Phrase]] = defaultdict(list)
    for phrase in phrases:
        of_rater[phrase.rater].append(phrase)
    common = of_rater.pop(EVERYBODY, [])
    made = [_trigger_finding(rater, rows) for rater, rows in of_rater.items()]
    if named and not made:
        made.append(
            AuditFinding(
                kind="trigger",
                what="No phrase decides for one rater and for nobody else",
                size="0 raters",
                verdict="ok",
                value=0.0,
            )
        )
    words = "; ".join(f"{row.words!r}" for row in common[:5])
    made.append(
        AuditFinding(
            kind="rare_phrase",
            what=f"Rare phrases that nearly always decide: {words or 'none'}",
            size=f"{len(common):,} phrases",
            verdict="look" if common else "ok",
            fix="Read rows that hold them: a habit of the generator, a rule, or a trigger?"
            if common
            else "",
            value=float(len(common)),
        )
    )
    return made


def _trigger_finding(rater: str, rows: Sequence[Phrase]) -> AuditFinding:
    top = rows[0]
    verb = "picks" if top.wins else "drops"
    return AuditFinding(
        kind="trigger",
        what=f"{rater} {verb} the response that holds {top.words!r} in {top.hits} of {top.n} "
        f"choices; others would in {top.others:.0%}",
        size=f"{len(rows):,} phrases, chance {top.p:.1g}",
        verdict="stop",
        fix=f"Read their rows; then rebuild without them: --without {rater}",
        value=float(len(rows)),
        n=top.n,
    )


def _influence_table(found: Sequence[Influence]) -> AuditTable:
    return AuditTable(
        title="What would change without one rater",
        header=("rater", "votes", "alone", "tipped", "of all decisions", "win rate moves"),
        rows=tuple(
            (
                row.rater,
                f"{row.votes:,}",
                f"{row.alone:,}",
                f"{row.tipped:,}",
                f"{row.share:.1%}",
                f"{row.shift:.1%} ({row.generator})" if row.generator else "",
            )
            for row in found
        ),
    )


def _phrase_table(phrases: Sequence[Phrase]) -> AuditTable:
    return AuditTable(
        title="Phrases that decide",
        header=("rater", "phrase", "it", "follows", "others", "tied to the rater", "chance"),
        rows=tuple(
            (
                row.rater or "everybody",
                repr(row.words),
                "wins" if row.wins else "loses",
                f"{row.hits} of {row.n}",
                f"{row.others:.0%} ({row.others_n:,})" if row.rater else "",
                f"{row.tied:.0%}" if row.rater else "",
                f"{row.p:.1g}",
            )
            for row in phrases
        ),
    )
