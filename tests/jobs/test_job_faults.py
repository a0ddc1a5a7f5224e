"""Workers that are killed, stopped, asked to leave, or out of room: nothing lost, nothing twice."""

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.job_world import Jobs, until

from preftune.files import sha256_of

NewJob = Callable[..., Jobs]
LONG = {"n_epochs": 4, "batch_size": 3, "learning_rate_multiplier": 20}
STEPS = 4 * 18 // 3
OFTEN = {"save_every": 3, "snapshot_every": 5}
GIVEN: dict[str, dict[str, Any]] = {
    "supervised": {"hyperparameters": LONG, "extras": OFTEN},
    "dpo": {"hyperparameters": LONG, "extras": OFTEN},
}


def result(jobs: Jobs) -> dict[str, str]:
    """Return the hash of all that must not depend on what happened on the way."""
    last = jobs.server.ends[-1]
    assert last.outcome == "succeeded"
    folder = jobs.attempt / last.folder
    files = [*sorted(folder.iterdir()), jobs.attempt / "result.csv"]
    hashes = {file.name: sha256_of(file) for file in files}
    kept = sorted(jobs.server.folders.items())
    return hashes | {f"{n}": sha256_of(place / "MANIFEST.json") for n, place in kept}


@pytest.fixture(scope="module")
def quiet(new_job: NewJob) -> dict[str, tuple[Jobs, dict[str, str]]]:
    """Jobs that nobody disturbed."""
    found = {}
    for method, given in GIVEN.items():
        jobs = new_job(method=method, **given)
        jobs.run()
        found[method] = (jobs, result(jobs))
    return found


def same_story(jobs: Jobs, quiet: tuple[Jobs, dict[str, str]]) -> None:
    """Check that a job told and left what the quiet one did, each thing once."""
    assert not jobs.server.problems
    told = {event.key: event.data for event in jobs.server.steps()}
    assert told == {event.key: event.data for event in quiet[0].server.steps()}
    assert list(told) == [f"step-{number}" for number in range(1, STEPS + 1)]
    assert list(jobs.server.checkpoints) == list(quiet[0].server.checkpoints)
    assert result(jobs) == quiet[1]


@pytest.mark.faults
@pytest.mark.parametrize("method", list(GIVEN))
def test_r03_a_worker_killed_at_random_moments_ends_in_the_same_bytes_and_events(
    new_job: NewJob, quiet: dict[str, tuple[Jobs, dict[str, str]]], method: str
) -> None:
    rng, jobs = random.Random(method), new_job(method=method, **GIVEN[method])
    worker = jobs.begin()
    for part in range(1, 3):
        wanted = STEPS * part // 3 + rng.randrange(3)
        jobs.until_step(wanted)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        worker = jobs.next_attempt()
    worker.join(60)
    assert worker.exitcode == 0
    assert [event.key for event in jobs.server.events.values() if "resumed" in event.key]
    same_story(jobs, quiet[method])


@pytest.mark.faults
def test_r12_a_worker_that_was_stopped_and_wakes_up_publishes_nothing(
    new_job: NewJob, quiet: dict[str, tuple[Jobs, dict[str, str]]]
) -> None:
    jobs = new_job(method="dpo", **GIVEN["dpo"])
    old = jobs.begin()
    jobs.until_step(8)
    os.kill(old.pid or 0, signal.SIGSTOP)
    new = jobs.next_attempt()
    until(lambda: "resumed-2" in jobs.server.events, what="the second worker")
    os.kill(old.pid or 0, signal.SIGCONT)
    old.join(60)
    new.join(60)
    assert (old.exitcode, new.exitcode) == (0, 0)
    assert jobs.server.refused > 0
    same_story(jobs, quiet["dpo"])


@pytest.mark.faults
def test_sigterm_leaves_a_checkpoint_and_the_job_goes_on(
    new_job: NewJob, quiet: dict[str, tuple[Jobs, dict[str, str]]]
) -> None:
    jobs = new_job(method="supervised", **GIVEN["supervised"])
    worker = jobs.begin()
    jobs.until_step(7)
    os.kill(worker.pid or 0, signal.SIGTERM)
    worker.join(20)
    assert worker.exitcode == 0
    last = jobs.server.ends[-1]
    assert last.outcome == "stopped"
    assert last.step == len(jobs.server.steps()) >= 7
    assert (jobs.attempt / "run" / "checkpoints" / f"step-{last.step:06d}").is_dir()
    assert last.step not in jobs.server.checkpoints or last.step % 5 == 0
    jobs.next_attempt().join(60)
    same_story(jobs, quiet["supervised"])


@pytest.mark.faults
def test_a_pause_leaves_a_model_of_its_step_and_the_next_worker_goes_on_with_the_next(
    new_job: NewJob, quiet: dict[str, tuple[Jobs, dict[str, str]]]
) -> None:
    jobs = new_job(method="dpo", **GIVEN["dpo"])
    jobs.server.asked = "pause"  # heard at the first beat, before the first step is over
    worker = jobs.begin()
    worker.join(30)
    assert worker.exitcode == 0
    last = jobs.server.ends[-1]
    assert (last.outcome, last.why, last.step) == ("paused", "", len(jobs.server.steps()))
    assert list(jobs.server.checkpoints) == [last.step]
    jobs.server.asked = ""
    jobs.next_attempt().join(60)
    told = {event.key: event.data for event in jobs.server.steps()}
    assert told == {event.key: event.data for event in quiet["dpo"][0].server.steps()}
    assert jobs.server.ends[-1].manifest_hash == quiet["dpo"][0].server.ends[-1].manifest_hash


@pytest.mark.faults
@pytest.mark.parametrize("how", ["cancel", "fence"])
def test_a_worker_whose_job_was_taken_away_leaves_at_once_and_tells_nothing_more(
    new_job: NewJob, how: str
) -> None:
    jobs = new_job(method="dpo", **GIVEN["dpo"])
    if how == "cancel":
        jobs.server.asked = "cancel"
        worker = jobs.begin()
    else:
        worker = jobs.begin()
        jobs.until_step(3)
        with jobs.server.lock:
            jobs.server.fence += 1
    worker.join(20)
    assert worker.exitcode == 0
    assert not jobs.server.ends
    assert not (jobs.root / "attempt-1" / "result.csv").exists()


@pytest.mark.faults
def test_training_goes_on_while_the_server_is_away_and_all_is_told_later(
    new_job: NewJob, quiet: dict[str, tuple[Jobs, dict[str, str]]]
) -> None:
    jobs = new_job(method="supervised", **GIVEN["supervised"])
    worker = jobs.begin()
    jobs.until_step(2)
    jobs.server.away = True
    until((jobs.attempt / "run" / "final").is_dir, what="training went on")
    assert len(jobs.server.steps()) < STEPS
    jobs.server.away = False
    worker.join(60)
    assert worker.exitcode == 0
    same_story(jobs, quiet["supervised"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB; mounting one needs root."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.fail(f"no small disk, so nothing is tested: {ran.stderr.strip()}. Run as root.")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(ballast: Path) -> None:
    """Write a file that takes all room, whatever others write meanwhile."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 14))


@pytest.mark.faults
def test_r06_a_full_disk_pauses_the_job_and_says_so_and_with_room_it_goes_on(
    new_job: NewJob, quiet: dict[str, tuple[Jobs, dict[str, str]]], small_disk: Path
) -> None:
    jobs = new_job(root=small_disk, method="dpo", **GIVEN["dpo"])
    worker = jobs.begin()
    jobs.until_step(6)
    ballast = small_disk / "ballast"
    fill(ballast)
    worker.join(30)
    assert worker.exitcode == 0
    last = jobs.server.ends[-1]
    assert last.outcome == "paused"
    assert "No space left" in last.why
    ballast.unlink()
    jobs.next_attempt().join(60)
    same_story(jobs, quiet["dpo"])


def test_the_server_hears_of_a_worker_before_its_libraries_are_there(
    new_job: NewJob, tmp_path: Path
) -> None:
    jobs, there = new_job(method="dpo", **GIVEN["dpo"]), tmp_path / "libraries"
    worker = jobs.begin(waits_for=there)
    until(lambda: "beat" in [what for what, _ in jobs.server.told], what="a beat")
    assert not jobs.server.starts
    there.touch()
    worker.join(60)
    assert jobs.server.ends[-1].outcome == "succeeded"
