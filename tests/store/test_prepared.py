"""Prepared statements do what SQLAlchemy does with the same statement, on both databases."""

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from tests.store.world import World

from preftune.store.prepared import Prepared
from preftune.store.schema import judgments, members, users

MEMBER = select(members).where(
    members.c.project_id == bindparam("project"), members.c.user_id == bindparam("user")
)


def test_rows_have_the_names_and_values_that_sqlalchemy_gives(world: World) -> None:
    prepared = Prepared(MEMBER)
    asked = {"project": world.project, "user": "ann"}
    with world.store.read() as db:
        ours, theirs = prepared.first(db, **asked), db.execute(MEMBER, asked).one()
        every = prepared.all(db, **asked)
    assert ours is not None
    assert ours._asdict() == theirs._asdict()
    assert every == [ours]


def test_truth_is_true_or_false_wherever_it_is_kept(world: World) -> None:
    world.add(1)
    world.say("ann", world.next("ann"), grade=2)
    with world.store.read() as db:
        row = Prepared(select(judgments).limit(1)).first(db)
    assert row is not None
    assert row.live is True
    assert row.settles is False
    assert row.right is None


def test_nothing_found_is_none_and_a_change_says_how_many_rows_it_was(world: World) -> None:
    change = Prepared(
        update(members).where(members.c.user_id == bindparam("user")).values(state="paused")
    )
    with world.store.read() as db:
        assert Prepared(MEMBER).first(db, project=world.project, user="nobody") is None
    assert world.store.write(lambda db: change.run(db, user="ann")) == 1
    assert world.store.write(lambda db: change.run(db, user="nobody")) == 0


def test_a_refusal_of_the_database_is_the_one_that_sqlalchemy_raises(world: World) -> None:
    again = Prepared(insert(members).values({c.key: bindparam(f"the_{c.key}") for c in members.c}))
    row = {"project_id": world.project, "user_id": "ann", "role": "rater", "state": "active"}
    given = {f"the_{name}": value for name, value in {**row, "judged": 0}.items()}
    with pytest.raises(IntegrityError):
        world.store.write(lambda db: again.run(db, **given))


def test_a_value_that_looks_like_sql_stays_a_value(world: World) -> None:
    hostile = "x'; DROP TABLE users; --%(user)s ?"
    with world.store.read() as db:
        found = Prepared(select(users).where(users.c.name == bindparam("name"))).all(
            db, name=hostile
        )
    assert found == []
