"""Contents of files: named by their hash, whole or not there, gone when nobody needs them."""

import hashlib
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert
from tests.store.world import World

from preftune.store import api_files, blobs
from preftune.store.api_files import ApiFile
from preftune.store.blobs import BLOBS, TEMPORARY, incoming, path_of
from preftune.store.database import Database
from preftune.store.job_schema import blobs as table

NOW_S = 1000.0


def add(world: World, content: bytes, project_id: str = "") -> ApiFile:
    with incoming(world.store) as new:
        new.write(content)
        waiting = new.finish()
        made = partial(
            api_files.add_file,
            content=waiting,
            project_id=project_id or world.project,
            filename="f",
            purpose="evals",
            now_s=NOW_S,
        )
        return world.store.write(made)


def kept(database: Database) -> list[Path]:
    places = [database.files / BLOBS, database.files / TEMPORARY]
    return [path for place in places for path in place.rglob("*") if path.is_file()]


def delete(world: World, file: ApiFile) -> None:
    gone = partial(api_files.delete_file, project_id=file.project_id, file_id=file.id, now_s=NOW_S)
    world.store.write(gone)
    world.store.write(partial(api_files.forget_deleted, now_s=NOW_S + 601))


def test_a_file_of_some_pieces_is_kept_whole(world: World) -> None:
    with incoming(world.store) as new:
        for piece in (b"ab", b"", b"c"):
            new.write(piece)
        content = new.finish()
        assert (content.bytes, content.sha256) == (3, hashlib.sha256(b"abc").hexdigest())
        take = partial(blobs.take_in, content=content, project_id=world.project, now_s=NOW_S)
        world.store.write(take)
    path = path_of(world.store, world.project, hashlib.sha256(b"abc").hexdigest())
    assert path.read_bytes() == b"abc"
    assert kept(world.store) == [path]


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_not_taken_in_leaves_nothing(world: World, finished: bool) -> None:
    with pytest.raises(RuntimeError, match="broke off"), incoming(world.store) as new:
        new.write(b"abc")
        if finished:
            new.finish()
        raise RuntimeError("broke off")
    assert kept(world.store) == []


def test_a_content_goes_when_its_last_file_does(world: World) -> None:
    first, second = add(world, b"same"), add(world, b"same")
    assert len(kept(world.store)) == 1
    delete(world, first)
    assert blobs.drop_unused(world.store) == 0
    delete(world, second)
    assert len(kept(world.store)) == 1
    assert blobs.drop_unused(world.store) == 1
    assert kept(world.store) == []


def test_projects_do_not_share(world: World) -> None:
    other = world.new_project("other")
    mine, theirs = add(world, b"same"), add(world, b"same", other)
    assert mine.sha256 == theirs.sha256
    delete(world, mine)
    assert blobs.drop_unused(world.store) == 1
    assert path_of(world.store, other, theirs.sha256).read_bytes() == b"same"


def test_a_content_that_comes_while_it_goes_stays(world: World) -> None:
    """Contents come and go side by side; a file that was acknowledged always has its bytes."""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.is_set():
            blobs.drop_unused(world.store)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(12):
            file = add(world, b"same")
            path = path_of(world.store, world.project, file.sha256)
            assert path.read_bytes() == b"same"
            delete(world, file)
            last = add(world, b"same")
            assert path.read_bytes() == b"same"
            delete(world, last)
    finally:
        ended.set()
        sweeper.join()


def test_r07_what_a_killed_process_left_is_collected_at_the_start(world: World) -> None:
    file = add(world, b"needed")
    (world.store.files / TEMPORARY / "half.tmp").write_bytes(b"half of it")
    lost = path_of(world.store, world.project, hashlib.sha256(b"lost").hexdigest())
    lost.parent.mkdir(parents=True, exist_ok=True)
    lost.write_bytes(b"lost")
    assert blobs.collect_orphans(world.store) == 2
    assert kept(world.store) == [path_of(world.store, world.project, file.sha256)]
    assert blobs.collect_orphans(world.store) == 0


def test_a_write_that_fails_leaves_no_row(world: World) -> None:
    with incoming(world.store) as new:
        new.write(b"abc")
        content = new.finish()

        def fails(db: Connection) -> None:
            blobs.take_in(db, content, project_id=world.project, now_s=NOW_S)
            db.execute(insert(table).values(project_id=world.project))  # lacks what it must have

        with pytest.raises(Exception, match=r"(?i)null"):
            world.store.write(fails)
    with world.store.read() as db:
        assert db.execute(table.select()).all() == []
    assert blobs.collect_orphans(world.store) == 1
