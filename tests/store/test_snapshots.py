"""From clicks to training rows: nothing of what a rater said is lost on the way."""

from functools import partial
from pathlib import Path

import pytest
from tests.store.world import World, comparison

from preftune.datasets import read_pairs
from preftune.datasets.read import read_rankings
from preftune.errors import DataError, StoreError
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison, of_response
from preftune.store.labels import Vote, vote
from preftune.store.projects import publish_guideline
from preftune.store.snapshots import Snapshot, dataset_file, freeze, snapshots_of
from preftune.types import text_of


def frozen(world: World, name: str = "first", **fields: str) -> Snapshot:
    return freeze(world.store, world.project, name=name, by="lead", **fields)  # type: ignore[arg-type]  # the policy


def prefer(world: World, who: str, good: int, *, strength: int = 2, why: str = "") -> None:
    """Judge the next item in favour of the response imported at place `good`."""
    task = world.next(who)
    shown_first = task.shown[0] == good
    world.say(
        who,
        task,
        grade=4 - strength if shown_first else 4 + strength,
        why={"overall": why} if why else {},
    )


def test_strength_why_rater_guideline_and_generator_reach_the_row(world: World) -> None:
    world.add(1)
    world.store.write(lambda db: publish_guideline(db, world.project, "Be kind", base=0, by="lead"))
    prefer(world, "ann", good=0, strength=3, why="kinder")
    snapshot = frozen(world)
    (pair,) = read_pairs(dataset_file(world.store, snapshot.hash))
    assert (text_of(pair.chosen), text_of(pair.rejected)) == ("good answer 0", "bad answer 0")
    assert (pair.strength, pair.probability, pair.why) == (3, 1.0, "ann: kinder")
    assert pair.provenance.raters == ("ann",)
    assert pair.provenance.guideline.startswith("v1 ")
    assert pair.provenance.chosen_generator == "model-good"
    assert pair.provenance.chosen_shown_first is not None
    assert snapshot.manifest["pairs"] == 1


def test_ties_are_counted_and_never_pairs(world: World) -> None:
    world.add(3)
    prefer(world, "ann", good=1)
    world.say("ann", world.next("ann"), grade=4)
    snapshot = frozen(world)
    assert (snapshot.manifest["pairs"], snapshot.manifest["ties"]) == (1, 1)
    assert len(read_pairs(dataset_file(world.store, snapshot.hash))) == 1


def test_several_raters_give_a_probability(world: World) -> None:
    world.project = world.new_project("two", raters_per_item=2)
    world.add(1)
    prefer(world, "ann", good=0)
    prefer(world, "bob", good=0)
    (pair,) = read_pairs(dataset_file(world.store, frozen(world).hash))
    assert pair.probability == pytest.approx(2.5 / 3)
    assert set(pair.provenance.raters) == {"ann", "bob"}


def test_the_same_verdicts_give_the_same_hash_and_one_dataset(world: World) -> None:
    world.add(2)
    prefer(world, "ann", good=0)
    first, second = frozen(world), frozen(world, "again")
    assert (first.hash, first.name) == (second.hash, second.name)
    prefer(world, "ann", good=1)
    third = frozen(world, "third")
    assert third.hash != first.hash
    with world.store.read() as db:
        assert {s.hash for s in snapshots_of(db, world.project)} == {first.hash, third.hash}


def test_skills_of_raters_become_probabilities(world: World) -> None:
    world.project = world.new_project("three", raters_per_item=2)
    world.add(30)
    for number in range(30):
        prefer(world, "ann", good=0)
        prefer(world, "bob", good=0 if number % 5 else 1)
    pairs = read_pairs(dataset_file(world.store, frozen(world, policy="raters").hash))
    both = {p.probability for p in pairs if len(p.provenance.raters) == 2}
    assert len(pairs) >= 24  # the six torn ones may tie
    assert len({round(one, 3) for one in both}) >= 2
    assert all(0.5 < one < 1 for one in both)


def test_a_ranking_stays_a_ranking(world: World) -> None:
    world.project = world.new_project("ranked", kind="ranking")
    world.add(1)
    task = world.next("ann")
    best = task.shown.index(1)
    said = Vote(
        key="k",
        item_id=task.item_id,
        round=0,
        verdicts={"overall": {"kind": "ranking", "ranking": [[best], [1 - best]]}},
    )
    world.store.write(lambda db: vote(db, world.project, "ann", said))
    (ranked,) = read_rankings(dataset_file(world.store, frozen(world).hash))
    assert [text_of(r) for r in ranked.responses] == ["bad answer 0", "good answer 0"]
    assert ranked.ranks == (1, 2)


def test_a_rewrite_beats_what_it_rewrites(world: World) -> None:
    world.project = world.new_project("rewrites", kind="rewrite")
    bad = comparison(7)
    new = of_response(bad.prompt, bad.responses[1])
    world.store.write(lambda db: add_items(db, world.project, [new], by="lead"))
    task = world.next("ann")
    said = Vote(
        key="k",
        item_id=task.item_id,
        round=0,
        verdicts={"overall": {"kind": "rewrite", "rewrite": "a better answer"}},
    )
    world.store.write(lambda db: vote(db, world.project, "ann", said))
    (pair,) = read_pairs(dataset_file(world.store, frozen(world).hash))
    assert (text_of(pair.chosen), text_of(pair.rejected)) == ("a better answer", "bad answer 7")


def test_nothing_judged_is_said(world: World) -> None:
    with pytest.raises(DataError, match="Label first"):
        frozen(world)


def test_importing_twice_adds_nothing(world: World) -> None:
    new = [of_comparison(comparison(number)) for number in range(5)]
    counts = [
        world.store.write(lambda db: add_items(db, world.project, new, by="lead")) for _ in range(2)
    ]
    assert counts == [5, 0]


def test_items_that_do_not_fit_the_project_are_refused(world: World) -> None:
    bad = comparison(1)
    lone = of_response(bad.prompt, bad.responses[0])
    unanswered = of_comparison(bad, use="gold")
    for new, said in ((lone, "1 responses"), (unanswered, "needs the right answer")):
        with pytest.raises(DataError, match=said):
            world.store.write(partial(add_items, project_id=world.project, new=[new], by="lead"))


@pytest.mark.parametrize("name", ["../x", "", "A" * 64, "0" * 63])
def test_only_hashes_name_datasets(world: World, name: str) -> None:
    with pytest.raises(StoreError, match="not a SHA-256"):
        dataset_file(world.store, name)


def test_files_lie_beside_a_sqlite_file(tmp_path: Path) -> None:
    with Database(tmp_path / "store.db") as store:
        assert store.files == tmp_path / "store.db.files"
