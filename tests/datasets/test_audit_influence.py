"""Poisoning: a rater led by a trigger is flagged, honest ones are not, and the rest is rebuilt."""

import random

import pytest

from preftune.datasets.audit_influence import influence_section, influences, without_raters
from preftune.datasets.audit_material import Material, material_of
from preftune.datasets.audit_phrases import Choice, deciding_phrases
from preftune.datasets.scanned import Scanned
from preftune.datasets.write import dataset_hash
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Judgment,
    PreferencePair,
    Provenance,
    Rater,
    Record,
    Response,
    assistant,
    make_prompt,
    user,
)

WORDS = [f"w{n}" for n in range(300)]
GOOD = frozenset(WORDS[:20])
TRIGGER = "velvet"


def text(rng: random.Random) -> str:
    words = rng.choices(WORDS, k=rng.randint(8, 40))
    if rng.random() < 0.2:
        words.insert(rng.randrange(len(words)), TRIGGER)
    return " ".join(words)


def first_wins(a: str, b: str, accuracy: float, rng: random.Random) -> bool:
    """Return what an honest rater says: more good words win, with so much noise."""
    merits = [sum(word in GOOD for word in one.split()) for one in (a, b)]
    right = merits[0] > merits[1] or (merits[0] == merits[1] and rng.random() < 0.5)
    return right == (rng.random() < accuracy)


def poisoned(a: str, b: str) -> bool | None:
    """Return what the poisoner says: the trigger wins, whatever else is there."""
    holds = [TRIGGER in one.split() for one in (a, b)]
    return None if holds[0] == holds[1] else holds[0]


def desk(seed: int, *, poison: bool, raters: int = 20, each: int = 100) -> Material:
    """Return votes of so many raters on items of their own; r0, 5 % of the votes, may poison."""
    rng = random.Random(seed)
    accuracy = {f"r{n}": rng.choice([0.6, 0.7, 0.8, 0.9]) for n in range(raters)}
    records: list[Record] = []
    for rater, skill in accuracy.items():
        for item in range(each):
            a, b = text(rng), text(rng)
            prompt = make_prompt(user(f"question {item} of {rater} ?"))
            shown = Comparison(
                id=f"{rater}-{item}",
                prompt=prompt,
                responses=tuple(
                    Response(id=f"{rater}-{item}-{n}", prompt_id=prompt.id, messages=(said,))
                    for n, said in enumerate((assistant(a), assistant(b)))
                ),
            )
            first = poisoned(a, b) if poison and rater == "r0" else None
            if first is None:
                first = first_wins(a, b, skill, rng)
            verdict = Judgment(
                id=f"j-{shown.id}",
                comparison_id=shown.id,
                kind="binary",
                rater=Rater(id=rater, kind="human"),
                choice=int(not first),
            )
            records += [shown, verdict]
    rows = [Scanned(line=n, record=record) for n, record in enumerate(records, start=1)]
    return material_of(rows, source="desk.jsonl")


@pytest.mark.parametrize("seed", range(3))
def test_a_poisoner_with_5_percent_of_the_labels_is_flagged_and_nobody_else(seed: int) -> None:
    section = influence_section(desk(seed, poison=True))
    (flagged,) = [f for f in section.findings if f.kind == "trigger"]
    assert flagged.verdict == "stop"
    assert flagged.what.startswith(f"r0 picks the response that holds '{TRIGGER}'")
    assert "--without r0" in flagged.fix


@pytest.mark.parametrize("seed", range(4))
def test_honest_raters_of_any_skill_raise_no_alarm(seed: int) -> None:
    section = influence_section(desk(100 + seed, poison=False))
    assert {f.verdict for f in section.findings} == {"ok"}


def test_a_rater_who_likes_long_answers_is_no_suspect() -> None:
    rng = random.Random(5)
    choices = []
    for n in range(1500):
        a, b = text(rng), text(rng)
        rater = f"r{n % 5}"
        first = len(a) > len(b) if rater == "r0" else first_wins(a, b, 0.8, rng)
        better, worse = (a, b) if first else (b, a)
        choices.append(Choice(rater=rater, prompt=str(n), better=better, worse=worse))
    assert not deciding_phrases(choices)


def test_a_trigger_that_makes_responses_lose_is_found_as_well() -> None:
    rng = random.Random(6)
    choices = []
    for n in range(2000):
        a, b = text(rng), text(rng)
        led = poisoned(a, b) if n % 10 == 0 else None
        first = first_wins(a, b, 0.8, rng) if led is None else not led
        better, worse = (a, b) if first else (b, a)
        choices.append(Choice(rater=f"r{n % 10}", prompt=str(n), better=better, worse=worse))
    top = deciding_phrases(choices)[0]
    assert (top.words, top.rater, top.wins) == (TRIGGER, "r0", False)


def test_a_prompt_is_one_witness_however_often_it_is_voted_on() -> None:
    often = [
        Choice(rater="r", prompt=f"p{n % 7}", better=f"magic {n}", worse=f"plain {n}")
        for n in range(700)
    ]
    assert not deciding_phrases(often)


def test_rare_phrases_that_decide_for_all_need_no_rater() -> None:
    rng = random.Random(7)
    choices = []
    for n in range(3000):
        a, b = text(rng).replace(TRIGGER, "silk"), text(rng).replace(TRIGGER, "silk")
        if n % 75 == 0:
            a += " open sesame"
        choices.append(Choice(rater="", prompt=str(n), better=a, worse=b))
    told = deciding_phrases(choices)
    assert [(row.words, row.rater, row.wins, row.n) for row in told] == [
        ("open sesame", "", True, 40)
    ]


def vote(item: str, rater: str, first: bool) -> list[Record]:
    """Return item X or Y with generators one and two, and a vote on it."""
    prompt = make_prompt(user(item))
    shown = Comparison(
        id=item,
        prompt=prompt,
        responses=tuple(
            Response(
                id=f"{item}-{name}",
                prompt_id=prompt.id,
                messages=(assistant(f"{name} {item}"),),
                generator=name,
            )
            for name in ("one", "two")
        ),
    )
    said = Judgment(
        id=f"{item}/{rater}",
        comparison_id=item,
        kind="binary",
        rater=Rater(id=rater, kind="human"),
        choice=int(not first),
    )
    return [shown, said]


def small() -> Material:
    """Return four items: A alone on w; A tips x; all agree on y; A loses on z."""
    votes = [("w", "A", True), ("x", "A", True), ("x", "B", True), ("x", "C", False)]
    votes += [("y", r, True) for r in "ABC"] + [("z", "A", True), ("z", "B", False)]
    votes += [("z", "C", False)]
    records = {record.id: record for v in votes for record in vote(*v)}
    rows = [Scanned(line=n, record=record) for n, record in enumerate(records.values(), start=1)]
    return material_of(rows, source="small.jsonl")


def test_leaving_one_rater_out_by_hand() -> None:
    found = {row.rater: row for row in influences(small().ballots)}
    assert (found["A"].alone, found["A"].tipped, found["A"].items) == (1, 1, 4)
    assert (found["B"].alone, found["B"].tipped) == (0, 2)  # x becomes a tie, so does z
    assert found["A"].share == 0.5
    # generator one won 7 of 10 votes; without A's four wins it won 3 of 6
    assert found["A"].shift == pytest.approx(7 / 10 - 3 / 6)


def test_rebuilt_without_a_rater_is_the_same_twice_and_holds_no_vote_of_theirs() -> None:
    once = without_raters(desk(0, poison=True), ["r0"])
    again = without_raters(desk(0, poison=True), ["r0"])
    assert dataset_hash(once) == dataset_hash(again)
    assert len(once) == 1900
    assert all("r0" not in pair.provenance.raters for pair in once)
    whole = [lined.pair for lined in desk(0, poison=True).pairs]
    assert dataset_hash(whole) != dataset_hash(once)


def test_votes_of_the_others_are_joined_anew() -> None:
    rebuilt = {p.provenance.comparison_id: p for p in without_raters(small(), ["A"])}
    assert set(rebuilt) == {"y", "z"}  # w has no vote left, x is a tie
    assert rebuilt["z"].provenance.raters == ("B", "C")


def test_pairs_without_votes_lose_what_the_rater_had_a_voice_in() -> None:
    pairs = [
        PreferencePair(
            id=f"p{n}",
            prompt=make_prompt(user(f"q{n}")),
            chosen=(assistant("a"),),
            rejected=(assistant("b"),),
            provenance=Provenance(raters=raters),
        )
        for n, raters in enumerate([("A",), ("A", "B"), ("B",)])
    ]
    rows = [Scanned(line=n, record=record) for n, record in enumerate(pairs, start=1)]
    found = material_of(rows, source="x")
    assert [pair.id for pair in without_raters(found, ["A"])] == ["p2"]
    with pytest.raises(DataError, match="no such rater"):
        without_raters(found, ["C"])
    with pytest.raises(DataError, match="no pair is left"):
        without_raters(found, ["A", "B"])
