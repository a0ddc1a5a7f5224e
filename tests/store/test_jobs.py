"""The job table: every state under everything that can be asked of it, lists, attempts."""

import threading
from collections.abc import Callable
from typing import get_args

import pytest
from sqlalchemy import text
from tests.store.job_world import LONG_S, OVER_S, JobWorld

from preftune.errors import StoreError
from preftune.store.database import Database
from preftune.store.job_errors import LostLeaseError, UnknownJobError, WrongStateError
from preftune.store.job_leases import by_worker, claim, held
from preftune.store.jobs import ENDED, Job, State, count_by_state, job, jobs_of
from preftune.store.pages import UnknownCursorError
from preftune.wire.job import Outcome


@pytest.fixture
def world(kept_store: Database) -> JobWorld:
    return JobWorld(kept_store)


def waiting(world: JobWorld) -> Job:
    return world.create()


def unread(world: JobWorld) -> Job:
    return world.create(state="validating_files")


def taken(world: JobWorld) -> Job:
    world.create()
    return world.claimed()


def running(world: JobWorld) -> Job:
    return world.started(taken(world))


def pausing(world: JobWorld) -> Job:
    return world.ask(running(world).id, "pause")


def paused(world: JobWorld) -> Job:
    return world.ask(waiting(world).id, "pause")


def after(outcome: Outcome) -> Callable[[JobWorld], Job]:
    return lambda world: world.finish(running(world), outcome, 3)


def cancelled(world: JobWorld) -> Job:
    return world.ask(running(world).id, "cancel")


REFUSED = "refused"
# Made by → what each request of a user leads to: pause, resume, cancel.
USERS: list[tuple[Callable[[JobWorld], Job], str, str, str]] = [
    (waiting, "paused", REFUSED, "cancelled"),
    (unread, "paused", REFUSED, "cancelled"),
    (taken, "queued", REFUSED, "cancelled"),  # its worker is asked first
    (running, "running", REFUSED, "cancelled"),
    (pausing, "running", REFUSED, "cancelled"),
    (paused, REFUSED, "queued", "cancelled"),
    (after("paused"), REFUSED, "queued", "cancelled"),
    (after("stopped"), "paused", REFUSED, "cancelled"),
    (after("succeeded"), REFUSED, REFUSED, REFUSED),
    (after("failed"), REFUSED, REFUSED, REFUSED),
    (after("cancelled"), REFUSED, REFUSED, REFUSED),
    (cancelled, REFUSED, REFUSED, REFUSED),
]


@pytest.mark.parametrize(("made", "pause", "resume", "cancel"), USERS)
def test_every_state_answers_users_as_the_table_says(
    world: JobWorld, made: Callable[[JobWorld], Job], pause: str, resume: str, cancel: str
) -> None:
    for what, expected in (("pause", pause), ("resume", resume), ("cancel", cancel)):
        before = made(world)
        history = world.keys(before.id)
        if expected == REFUSED:
            with pytest.raises(WrongStateError, match=before.state):
                world.ask(before.id, what)  # type: ignore[arg-type]  # one of the three
            assert (world.job(before.id), world.keys(before.id)) == (before, history)
        else:
            now = world.ask(before.id, what)  # type: ignore[arg-type]  # one of the three
            assert now.state == expected
            assert now.asked == (
                "pause" if expected in ("queued", "running") and before.lease_owner else ""
            )
            if now.state in ENDED:
                assert now.finished_s == world.now_s
        world.write(
            lambda db: db.execute(text("UPDATE jobs SET state = 'failed', lease_owner = ''"))
        )


WORKERS: dict[str, tuple[Callable[[JobWorld, Job], object], str]] = {
    "beat": (lambda world, job: world.beat(job), "running"),
    "started": (lambda world, job: world.started(job), "running"),
    "tell": (lambda world, job: world.tell(job, "step-1"), "running"),
    "checkpoint": (lambda world, job: world.checkpoint(job, 1), "running"),
    "succeeded": (lambda world, job: world.finish(job, "succeeded"), "succeeded"),
    "failed": (lambda world, job: world.finish(job, "failed"), "failed"),
    "paused": (lambda world, job: world.finish(job, "paused"), "paused"),
    "cancelled": (lambda world, job: world.finish(job, "cancelled"), "cancelled"),
    "stopped": (lambda world, job: world.finish(job, "stopped"), "queued"),
    "release": (lambda world, job: world.release(job), "queued"),
}
ENDS: list[Callable[[JobWorld, Job], object]] = [
    *(lambda world, job, end=end: world.finish(job, end) for end in get_args(Outcome)),
    lambda world, job: world.ask(job.id, "cancel"),
    lambda world, job: world.release(job),
]


@pytest.mark.parametrize("what", WORKERS)
def test_a_worker_with_the_lease_is_heard(world: JobWorld, what: str) -> None:
    act, state = WORKERS[what]
    mine = running(world)
    act(world, mine)
    assert world.job(mine.id).state == state


def test_once_a_lease_has_ended_nothing_of_its_worker_is_heard(world: JobWorld) -> None:
    for end in ENDS:
        mine = running(world)
        end(world, mine)
        before, history = world.job(mine.id), world.keys(mine.id)
        for act, _ in WORKERS.values():
            with pytest.raises(LostLeaseError):
                act(world, mine)
        assert (world.job(mine.id), world.keys(mine.id)) == (before, history)
        if before.state not in ENDED:
            world.ask(mine.id, "cancel")


def test_of_two_workers_only_the_later_is_heard(world: JobWorld) -> None:
    first = running(world)
    world.release(first)
    second = world.claimed()
    assert second.id == first.id
    assert second.fence > first.fence
    for act, _ in WORKERS.values():
        with pytest.raises(LostLeaseError):
            act(world, first)
    assert world.beat(second) == ""


def test_a_worker_hears_of_a_pause_and_a_job_says_paused_once_it_has_left(world: JobWorld) -> None:
    mine = running(world)
    assert world.beat(mine, 4) == ""
    world.ask(mine.id, "pause")
    assert world.beat(mine, 6) == "pause"
    now = world.finish(mine, "paused", 6)
    assert (now.state, now.asked, now.step, now.lease_owner) == ("paused", "", 6, "")
    again = world.ask(mine.id, "resume")
    assert (again.state, again.step) == ("queued", 6)
    assert world.claimed().id == mine.id


@pytest.mark.parametrize("left", ["stopped", "gone"])
def test_a_job_asked_to_pause_is_paused_however_its_worker_leaves(
    world: JobWorld, left: str
) -> None:
    mine = pausing(world)
    now = world.finish(mine, "stopped") if left == "stopped" else world.release(mine)
    assert (now.state, now.asked) == ("paused", "")


def test_a_full_disk_pauses_a_job_and_says_so(world: JobWorld) -> None:
    mine = running(world)
    now = world.finish(mine, "paused", 2, why="disk full on the server")
    assert (now.state, now.why) == ("paused", "disk full on the server")
    assert "disk full" in world.events(mine.id)[-1].message
    assert world.ask(mine.id, "resume").why == ""


def test_a_job_tells_its_story_in_order(world: JobWorld) -> None:
    mine = running(world)
    world.tell(mine, "step-1", "step-2")
    world.checkpoint(mine, 2)
    done = world.finish(mine, "succeeded", 2)
    fence = mine.fence
    assert fence == 1
    expected = ["created", "validated", "started", "step-1", "step-2", "checkpoint-2"]
    assert world.keys(mine.id) == [*expected, "model", "succeeded"]
    assert (done.fine_tuned_model or "-") in world.events(mine.id)[-2].message
    assert (done.trained_tokens, done.result_files) == (123, ("file-2",))
    assert (done.resolved, done.total_steps) == ({"n_epochs": 3}, 10)


def test_a_failed_job_says_why(world: JobWorld) -> None:
    done = world.finish(running(world), "failed")
    problem = {
        "code": "invalid_training_file",
        "message": "Line 3 is empty.",
        "param": "training_file",
    }
    assert done.error == problem
    last = world.events(done.id)[-1]
    assert (last.level, last.message) == ("error", "The job failed: Line 3 is empty.")


def test_jobs_are_claimed_oldest_first_and_each_once(world: JobWorld) -> None:
    made = [world.create().id for _ in range(3)]
    found = [world.claimed().id for _ in range(3)]
    assert found == made
    assert world.claim() is None
    with world.store.read() as db:
        assert [job.id for job in held(db)] == made


def test_r13_a_job_that_gains_nothing_has_failed_after_three_attempts(world: JobWorld) -> None:
    made = world.create()
    for attempt in (1, 2, 3):
        mine = world.claimed()
        assert mine.attempt == attempt
        world.release(mine)
    done = world.job(made.id)
    assert (done.state, done.lease_owner) == ("failed", "")
    assert done.error is not None
    assert done.error["code"] == "server_error"
    assert "3 times" in done.error["message"]
    assert "killed by signal 9" in done.error["message"]
    assert world.claim() is None


def test_r13_an_attempt_with_progress_begins_the_count_anew(world: JobWorld) -> None:
    world.create()
    for number in range(9):
        mine = world.claimed()
        if number % 3 == 2:
            world.beat(mine, 10 * number)
        assert world.release(mine).state == "queued"


def test_r13_what_the_job_is_not_to_blame_for_is_not_counted(world: JobWorld) -> None:
    made = world.create()
    for _ in range(4):
        world.release(world.claimed(), counts=False)
        world.finish(world.claimed(), "stopped")
        world.finish(world.claimed(), "paused")
        world.ask(made.id, "resume")
    assert world.claimed().attempt == 1


def test_a_lease_ends_without_a_beat_and_lives_on_with_one(world: JobWorld) -> None:
    world.create()
    mine = world.claimed(lease_s=OVER_S)
    assert world.expired() == [mine.id]
    world.beat(mine)  # late, but nobody took it
    assert world.expired() == []
    world.beat(mine, lease_s=OVER_S)
    assert world.expired() == [mine.id]


def test_a_lease_from_before_the_machine_was_started_again_has_ended(
    world: JobWorld,
) -> None:
    world.create()
    mine = world.claimed(lease_s=LONG_S)
    owner = mine.lease_owner.replace(mine.lease_owner.partition("@")[2], "another-start")
    world.write(
        lambda db: db.execute(text("UPDATE jobs SET lease_owner = :owner"), {"owner": owner})
    )
    assert world.expired() == [mine.id]


def test_r22_jumps_of_the_date_leave_leases_and_order_alone(world: JobWorld) -> None:
    made = []
    for jump_s in (0.0, 3600.0, -7200.0):
        world.now_s += jump_s
        made.append(world.create().id)
    mine = world.claimed(lease_s=30.0)
    for jump_s in (3600.0, -7200.0):
        world.now_s += jump_s
        world.started(mine)
        world.tell(mine, f"step-{jump_s}")
        assert world.expired() == []
    assert mine.id == made[0]
    assert listed(world) == made[::-1]
    assert world.keys(mine.id)[-2:] == ["step-3600.0", "step--7200.0"]


def listed(world: JobWorld, **wanted: object) -> list[str]:
    """All ids of a list, two rows at a time."""
    found: list[str] = []
    after: str | None = None
    while True:
        with world.store.read() as db:
            page = jobs_of(db, world.project, after=after, limit=2, **wanted)  # type: ignore[arg-type]  # as the test says
        found += [job.id for job in page.data]
        if not page.has_more:
            return found
        after = found[-1]


def test_a_list_is_newest_first_and_stays_in_place_while_jobs_are_added(world: JobWorld) -> None:
    made = [world.create().id for _ in range(5)]
    assert listed(world) == made[::-1]
    with world.store.read() as db:
        first = jobs_of(db, world.project, limit=2)
    world.create()
    with world.store.read() as db:
        second = jobs_of(db, world.project, after=first.data[-1].id, limit=3)
    assert [job.id for job in (*first.data, *second.data)] == made[::-1]
    assert (first.has_more, second.has_more) == (True, False)


def test_jobs_are_found_by_their_metadata(world: JobWorld) -> None:
    both = world.create(metadata={"team": "a", "run": ""}).id
    one = world.create(metadata={"team": "a"}).id
    none, empty = world.create().id, world.create(metadata={}).id
    assert listed(world, metadata={"team": "a"}) == [one, both]
    assert listed(world, metadata={"team": "a", "run": ""}) == [both]
    assert listed(world, metadata={"run": "a"}) == []
    assert listed(world, metadata=None) == [empty, none]
    assert (world.job(both).metadata, world.job(none).metadata) == ({"team": "a", "run": ""}, None)


def test_another_project_sees_nothing(world: JobWorld) -> None:
    mine = world.create(metadata={"team": "a"})
    here, world.project = world.project, world.new_project()
    with pytest.raises(UnknownJobError):
        world.ask(mine.id, "cancel")
    with pytest.raises(UnknownJobError), world.store.read() as db:
        job(db, world.project, mine.id)
    assert listed(world) == listed(world, metadata={"team": "a"}) == []
    with pytest.raises(UnknownCursorError), world.store.read() as db:
        jobs_of(db, world.project, after=mine.id)
    assert world.job(mine.id) == mine
    world.project = here
    assert listed(world) == [mine.id]


def test_jobs_are_counted_by_state(world: JobWorld) -> None:
    expected: dict[State, int] = {"queued": 2, "cancelled": 1}
    made = [world.create() for _ in range(3)]
    world.ask(made[0].id, "cancel")
    with world.store.read() as db:
        assert count_by_state(db) == expected


def test_a_worker_who_changes_files_first_holds_the_job_meanwhile(world: JobWorld) -> None:
    mine = running(world)
    assert world.write(lambda db: by_worker(db, mine.id, fence=mine.fence)) == mine
    with pytest.raises(LostLeaseError):
        world.write(lambda db: by_worker(db, mine.id, fence=mine.fence - 1))


def test_a_claim_by_two_servers_at_once_gives_each_job_once(world: JobWorld) -> None:
    url = world.store.url
    if url.get_backend_name() == "sqlite":
        with pytest.raises(StoreError, match="has it open"):
            Database(f"{url}")
        return
    made = {world.create().id for _ in range(12)}
    found: list[str] = []

    def take(store: Database) -> None:
        while job := store.write(lambda db: claim(db, owner="any", lease_s=LONG_S)):
            found.append(job.id)

    with Database(url.render_as_string(), files=world.store.files) as other:
        threads = [threading.Thread(target=take, args=(each,)) for each in (world.store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == sorted(made)
