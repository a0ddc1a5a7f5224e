"""Raters in an audit: agreement beside known answers, who stands against the others, and sides."""

import random

import pytest

from preftune.datasets.audit_material import Ballot, Material, material_of
from preftune.datasets.audit_parts import AuditFinding
from preftune.datasets.audit_raters import agreement_section, rater_figures, rater_section
from preftune.datasets.scanned import Scanned
from preftune.types import (
    Comparison,
    Judgment,
    PreferencePair,
    Provenance,
    Rater,
    RaterKind,
    Record,
    Response,
    assistant,
    make_prompt,
    user,
)


def shown(item: int) -> Comparison:
    prompt = make_prompt(user(f"question {item} ?"))
    return Comparison(
        id=f"c{item}",
        prompt=prompt,
        responses=tuple(
            Response(id=f"r{item}{s}", prompt_id=prompt.id, messages=(assistant(f"{s} {item}"),))
            for s in "ab"
        ),
    )


def vote(item: int, rater: str, choice: int, *, swapped: bool = False) -> Judgment:
    name = f"c{item}~swapped" if swapped else f"c{item}"
    return Judgment(
        id=f"{name}/{rater}/{choice}",
        comparison_id=name,
        kind="binary",
        rater=Rater(id=rater, kind="human"),
        choice=choice,
    )


def material(votes: list[Judgment], items: int) -> Material:
    comparisons = [shown(item) for item in range(items)]
    comparisons += [comparison.swap() for comparison in comparisons]
    records: list[Record] = [*comparisons, *votes]
    rows = [Scanned(line=n, record=record) for n, record in enumerate(records, start=1)]
    return material_of(rows, source="votes.jsonl")


def panel(accuracies: dict[str, float], items: int, seed: int) -> Material:
    """Return votes of every rater on every item, the truth and the side drawn by chance."""
    rng = random.Random(seed)
    votes = []
    for item in range(items):
        truth = rng.random() < 0.5
        for rater, accuracy in accuracies.items():
            says_first = truth == (rng.random() < accuracy)
            swapped = rng.random() < 0.5
            choice = int(not says_first)
            votes.append(vote(item, rater, 1 - choice if swapped else choice, swapped=swapped))
    return material(votes, items)


def of_kind(findings: tuple[AuditFinding, ...], kind: str) -> AuditFinding:
    return next(finding for finding in findings if finding.kind == kind)


def test_an_adversary_is_found_and_poor_but_honest_raters_are_not() -> None:
    told = rater_section(
        panel({"good": 0.9, "fair": 0.8, "poor": 0.65, "foe": 0.2}, 200, seed=0)
    ).findings
    against = of_kind(told, "rater_against_others")
    assert (against.verdict, against.value) == ("stop", 1.0)
    assert "foe" in against.what
    honest = rater_section(panel({"good": 0.9, "fair": 0.8, "poor": 0.65}, 200, seed=1)).findings
    assert of_kind(honest, "rater_against_others").verdict == "ok"


def test_fair_raters_raise_no_alarm_of_any_kind() -> None:
    for seed in range(5):
        found = panel({f"r{n}": 0.8 for n in range(6)}, 60, seed=seed)
        assert {f.verdict for f in rater_section(found).findings} == {"ok"}


def test_agreement_with_the_others_leaves_out_the_raters_own_vote() -> None:
    # two say first, one says second, on 30 items: the two agree with a tie of the others never
    votes = [vote(i, r, c) for i in range(30) for r, c in (("a", 0), ("b", 0), ("c", 1))]
    figures = {row.rater: row for row in rater_figures(material(votes, 30))}
    assert figures["a"].agreement is None  # b and c cancel out: nothing to compare with
    assert figures["c"].agreement is not None
    assert figures["c"].agreement.value == 0.0


def test_a_second_vote_of_a_rater_counts_as_a_repeat() -> None:
    votes = [vote(i, "a", 0) for i in range(40)]
    votes += [vote(i, "a", 1, swapped=True) for i in range(30)]  # the same response, other order
    votes += [vote(i, "a", 1) for i in range(30, 40)]
    (row,) = rater_figures(material(votes, 40))
    assert row.repeats is not None
    assert row.repeats.value == pytest.approx(0.75)


def test_a_side_is_told_from_what_was_shown_not_from_the_first_order() -> None:
    votes = [vote(i, "a", 0, swapped=bool(i % 2)) for i in range(100)]
    votes += [vote(i, "b", i % 2, swapped=bool(i % 2)) for i in range(100)]
    figures = {row.rater: row for row in rater_figures(material(votes, 100))}
    assert figures["a"].first is not None
    assert figures["b"].first is not None
    assert (figures["a"].first.value, figures["b"].first.value) == (1.0, 0.5)
    told = rater_section(material(votes, 100)).findings
    assert of_kind(told, "rater_side").verdict == "look"
    assert "a 100.0 %" in of_kind(told, "rater_side").what


def test_pairs_that_name_one_rater_are_votes_of_theirs() -> None:
    pairs = [
        PreferencePair(
            id=f"p{n}{rater}",
            prompt=make_prompt(user(f"question {n} ?")),
            chosen=(assistant("a" if n % 4 or rater == "x" else "b"),),
            rejected=(assistant("b" if n % 4 or rater == "x" else "a"),),
            provenance=Provenance(
                raters=(rater,), rater_kind="human", chosen_shown_first=bool(n % 2)
            ),
        )
        for n in range(80)
        for rater in ("x", "y")
    ]
    rows = [Scanned(line=n, record=record) for n, record in enumerate(pairs, start=1)]
    found = material_of(rows, source="pairs.jsonl")
    assert len(found.ballots) == 160
    figures = {row.rater: row for row in rater_figures(found)}
    assert figures["x"].first is not None
    assert figures["x"].first.value == 0.5
    assert agreement_section(found).findings[0].value is not None


def test_nobody_named_is_said() -> None:
    pair = PreferencePair(
        id="p",
        prompt=make_prompt(user("q")),
        chosen=(assistant("a"),),
        rejected=(assistant("b"),),
    )
    found = material_of([Scanned(line=1, record=pair)], source="x")
    assert "Give --judgments" in agreement_section(found).text
    assert "Give --judgments" in rater_section(found).text


def test_votes_no_better_than_chance_are_to_be_looked_at() -> None:
    found = agreement_section(panel({f"r{n}": 0.5 for n in range(4)}, 60, seed=3))
    assert found.findings[0].verdict == "look"
    good = agreement_section(panel({f"r{n}": 0.75 for n in range(4)}, 60, seed=3))
    assert good.findings[0].verdict == "ok"  # alpha near .25 is normal


def test_kinds_are_never_mixed() -> None:
    def cast(unit: str, rater: str, kind: RaterKind, value: float) -> Ballot:
        return Ballot(
            unit=unit,
            prompt=unit,
            dimension="overall",
            rater=rater,
            kind=kind,
            value=value,
            swapped=False,
        )

    ballots = [cast(f"u{n}", r, "human", 1 - 2 * (n % 2)) for n in range(40) for r in "ab"]
    ballots += [cast(f"u{n}", "judge", "judge", 2 * (n % 2) - 1) for n in range(40)]
    found = Material(
        source="x",
        format="preftune",
        rows=[],
        pairs=[],
        comparisons={},
        judgments=[],
        ballots=ballots,
        kinds=("human", "judge"),
        few_prompts=False,
    )
    (people,) = agreement_section(found).findings
    assert people.value == 1.0
    figures = {row.rater: row for row in rater_figures(found)}
    assert figures["judge"].agreement is not None
    assert figures["judge"].agreement.value == 0.0  # with people, who are the measure
