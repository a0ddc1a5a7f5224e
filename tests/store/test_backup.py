"""Backup and restore: all of it or nothing, and never anything else than what was saved."""

import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from tests.store.job_world import NOW_S, JobWorld
from tests.store.world import World

from preftune.errors import StoreError
from preftune.store import events
from preftune.store.api_files import add_file
from preftune.store.backup import backup, restore
from preftune.store.blobs import incoming
from preftune.store.database import Database
from preftune.store.jobs import Job, NewJob, create, jobs_of
from preftune.store.queue import next_task
from preftune.store.schema import metadata
from preftune.store.snapshots import dataset_file, freeze


def rows(store: Database) -> dict[str, list[tuple[object, ...]]]:
    left_out = {"sessions", "login_attempts", "leases"}
    with store.read() as db:
        return {
            table.name: sorted(map(tuple, db.execute(select(table)).all()), key=str)
            for table in metadata.sorted_tables
            if table.name not in left_out
        }


@pytest.fixture
def saved(world: World, tmp_path: Path) -> Path:
    world.add(6)
    for _ in range(5):
        world.say("ann", world.next("ann"))
    freeze(world.store, world.project, name="first", by="lead")
    backup(world.store, tmp_path / "saved")
    return tmp_path / "saved"


def test_a_restored_store_is_the_same_on_either_database(
    world: World, saved: Path, tmp_path: Path
) -> None:
    with Database(tmp_path / "other.db") as other:
        counts = restore(saved, other)
        assert rows(other) == rows(world.store)
        assert counts["judgments"] == 5
        with other.read() as db:
            assert events.verify(db, world.project) == len(world.types())
        (file,) = (other.files / "datasets").iterdir()
        assert file.read_bytes() == dataset_file(world.store, file.stem).read_bytes()


def test_an_item_that_a_rater_had_before_them_is_shown_again_after_a_restore(
    world: World, tmp_path: Path
) -> None:
    world.add(1)
    held = world.next("ann")
    backup(world.store, tmp_path / "saved")
    with Database(tmp_path / "other.db") as other:
        restore(tmp_path / "saved", other)
        task = other.write(lambda db: next_task(db, world.project, "bob"))
    assert task is not None
    assert task.item_id == held.item_id


def test_one_changed_byte_is_found_and_named(saved: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "other.db") as other:
        for file in sorted(saved.rglob("*.gz")):
            kept = file.read_bytes()
            file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
            with pytest.raises(StoreError, match=file.name):
                restore(saved, other)
            file.write_bytes(kept)
        assert not any(rows(other).values())


def test_a_log_changed_with_its_hash_in_the_manifest_is_found(saved: Path, tmp_path: Path) -> None:
    import gzip
    import json

    from preftune.files import sha256_of

    file = saved / "events.jsonl.gz"
    with gzip.open(file) as packed:
        content = packed.read().replace(b'\\"grade\\":2', b'\\"grade\\":6')
    file.write_bytes(gzip.compress(content))
    manifest = json.loads((saved / "MANIFEST.json").read_text())
    manifest["sha256"]["events.jsonl.gz"] = sha256_of(file)
    (saved / "MANIFEST.json").write_text(json.dumps(manifest))
    with Database(tmp_path / "other.db") as other:
        with pytest.raises(StoreError, match="was changed or taken out"):
            restore(saved, other)
        assert not any(rows(other).values())


def test_only_an_empty_store_is_filled(world: World, saved: Path) -> None:
    with pytest.raises(StoreError, match="is not empty"):
        restore(saved, world.store)


def test_a_backup_is_for_its_owner_alone(saved: Path) -> None:
    assert saved.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in saved.rglob("*"))


def test_a_folder_that_is_there_is_not_written_over(world: World, saved: Path) -> None:
    with pytest.raises(StoreError, match="is there already"):
        backup(world.store, saved)


@pytest.fixture
def jobs(store: Database) -> JobWorld:
    """A project with an uploaded file, a job that has ended, one that runs and one that waits."""
    jobs = JobWorld(store)
    with incoming(store) as new:
        new.write(b'{"a": 1}\n')
        content = new.finish()
        about: dict[str, Any] = {
            "project_id": jobs.project,
            "filename": "rows.jsonl",
            "purpose": "fine-tune",
        }
        jobs.write(lambda db: add_file(db, content, **about, now_s=NOW_S))
    ended, running = jobs.create(metadata={"team": "a"}), jobs.create()
    jobs.create()
    jobs.ask(jobs.create().id, "pause")
    write_model(jobs, ended, 4)
    jobs.finish(jobs.claimed(), "succeeded", 4)
    worker = jobs.started(jobs.claimed())
    assert worker.id == running.id
    write_model(jobs, worker, 2)
    jobs.checkpoint(worker, 2)
    return jobs


def write_model(jobs: JobWorld, job: Job, step: int) -> None:
    folder = jobs.store.files / f"jobs/{job.id}/attempt-1/models/{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder.parent.parent / "run").mkdir()
    (folder.parent.parent / "run" / "optimizer").write_bytes(b"not in a backup")


def test_files_and_models_come_back_and_run_folders_do_not(jobs: JobWorld, tmp_path: Path) -> None:
    backup(jobs.store, tmp_path / "saved")
    with Database(tmp_path / "other.db") as other:
        restore(tmp_path / "saved", other)
        for kept in ("blobs", "jobs"):
            found = contents(other.files / kept)
            assert found == {
                name: content
                for name, content in contents(jobs.store.files / kept).items()
                if "/run/" not in name
            }
            assert found


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {f"{path.relative_to(folder)}": path.read_bytes() for path in files}


def test_jobs_that_had_not_ended_begin_anew_and_new_ones_come_behind_them(
    jobs: JobWorld, database_url: str, tmp_path: Path, postgresql: str
) -> None:
    backup(jobs.store, tmp_path / "saved")
    name = f"r{uuid.uuid4().hex}"
    if database_url.startswith("postgresql"):
        with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
    url = f"{postgresql}/{name}" if "postgresql" in database_url else f"sqlite:///{tmp_path}/{name}"
    with Database(url, files=tmp_path / "others") as other:
        restore(tmp_path / "saved", other)
        with jobs.store.read() as here, other.read() as there:
            before = jobs_of(here, jobs.project).data
            after = jobs_of(there, jobs.project).data
        assert [one.id for one in after] == [one.id for one in before]
        assert [one.state for one in after] == ["paused", "queued", "queued", "succeeded"]
        assert [(one.step, one.lease_owner) for one in after[:3]] == 3 * [(0, "")]
        assert after[3] == before[3]
        assert after[2].fence > before[2].fence  # its old worker is refused, its folder is new
        request: dict[str, Any] = {
            "model": "tiny",
            "resolved": {},
            "request": {},
            "training_file": "file-1",
        }
        new = NewJob(project_id=jobs.project, key_id=None, method="dpo", seed=1, **request)
        made = other.write(lambda db: create(db, new, now_s=NOW_S))
        assert made.seq > max(one.seq for one in after)


def test_a_store_that_lacks_a_file_is_not_backed_up(jobs: JobWorld, tmp_path: Path) -> None:
    (blob,) = (path for path in (jobs.store.files / "blobs").rglob("*") if path.is_file())
    blob.unlink()
    with pytest.raises(StoreError, match=f"{blob.name}: is missing"):
        backup(jobs.store, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("how", ["changed", "added"])
def test_a_model_changed_in_a_backup_is_found_and_named(
    jobs: JobWorld, tmp_path: Path, how: str
) -> None:
    backup(jobs.store, tmp_path / "saved")
    model = next((tmp_path / "saved").rglob("*.safetensors"))
    file = model if how == "changed" else model.with_name("more.safetensors")
    file.write_bytes(b"others")
    with Database(tmp_path / "other.db") as other:
        with pytest.raises(StoreError, match=str(file)):
            restore(tmp_path / "saved", other)
        assert not any(rows(other).values())
        assert not list(other.files.rglob("*"))
