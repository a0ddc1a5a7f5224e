"""Backup and restore: all of it or nothing, and never anything else than what was saved."""

from pathlib import Path

import pytest
from sqlalchemy import select
from tests.store.world import World

from preftune.errors import StoreError
from preftune.store import events
from preftune.store.backup import backup, restore
from preftune.store.database import Database
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
    for number, file in enumerate(sorted(saved.rglob("*.gz"))):
        kept = file.read_bytes()
        file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with Database(tmp_path / f"{number}.db") as other:
            with pytest.raises(StoreError, match=file.name):
                restore(saved, other)
            assert not any(rows(other).values())
        file.write_bytes(kept)


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
