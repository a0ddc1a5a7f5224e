"""The history of a job: each thing once, numbered without a gap, in pages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.job_world import JobWorld

from preftune.store.database import Database
from preftune.store.job_errors import UnknownJobError
from preftune.store.job_events import events_of
from preftune.store.pages import UnknownCursorError

keys = st.sampled_from([f"step-{n}" for n in range(6)])


def test_an_event_is_told_once_however_often_it_is_sent(kept_store: Database) -> None:
    world = JobWorld(kept_store)
    world.create()

    @settings(max_examples=15)
    @given(st.lists(st.lists(keys, max_size=5), max_size=6))
    def check(batches: list[list[str]]) -> None:
        job = world.create()
        expected = world.keys(job.id)
        for batch in batches:
            new = [key for key in dict.fromkeys(batch) if key not in expected]
            assert world.append(job.id, *batch) == len(new)
            expected += new
        told = world.events(job.id)
        assert [event.key for event in told] == expected
        assert [event.seq for event in told] == list(range(1, len(told) + 1))
        assert len({event.id for event in told}) == len(told)

    check()


def test_the_first_telling_stands(kept_store: Database) -> None:
    world = JobWorld(kept_store)
    job = world.create()
    for loss in (0.5, 0.7):
        data = {"step": 1, "train_loss": loss}
        world.append(job.id, "step-1", type="metrics", data=data)
    assert world.events(job.id)[-1].data == {"step": 1, "train_loss": 0.5}


def test_pages_are_newest_first_and_stay_in_place_while_events_come(kept_store: Database) -> None:
    world = JobWorld(kept_store)
    job = world.create()
    seen: list[str] = []
    after: str | None = None
    world.append(job.id, *(f"step-{n}" for n in range(7)))
    expected = world.keys(job.id)[::-1]
    for number in range(20):
        with kept_store.read() as db:
            page = events_of(db, world.project, job.id, after=after, limit=2)
        seen += [event.key for event in page.data]
        world.append(job.id, *(f"later-{number}-{n}" for n in range(3)))
        if not page.has_more:
            break
        after = page.data[-1].id
    assert seen == expected


def test_a_page_behind_an_event_of_another_job_is_refused(kept_store: Database) -> None:
    world = JobWorld(kept_store)
    one, other = world.create(), world.create()
    foreign = world.events(other.id)[0].id
    with pytest.raises(UnknownCursorError, match=foreign), kept_store.read() as db:
        events_of(db, world.project, one.id, after=foreign)


def test_only_a_job_that_is_there_has_a_history(kept_store: Database) -> None:
    world = JobWorld(kept_store)
    with pytest.raises(UnknownJobError):
        world.append("ftjob-none", "step-1")
