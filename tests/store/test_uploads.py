"""Uploads in the store: states, parts, and what each refuses."""

from functools import partial
from typing import Any

import pytest
from tests.store.world import World

from preftune.store import uploads
from preftune.store.blobs import incoming
from preftune.store.uploads import (
    NewUpload,
    Part,
    PartsError,
    UnknownUploadError,
    Upload,
    UploadStateError,
)

NOW_S = 1000.0


def begin(world: World, size: int = 6) -> Upload:
    new = NewUpload(
        project_id=world.project, filename="f", purpose="evals", mime_type="x", bytes=size
    )
    return world.store.write(partial(uploads.create, new=new, now_s=NOW_S, expires_s=NOW_S + 60))


def add(world: World, upload: Upload, data: bytes, **how: Any) -> Part:
    said = {"project_id": world.project, "upload_id": upload.id, "now_s": NOW_S, **how}
    with incoming(world.store) as new:
        new.write(data)
        return world.store.write(partial(uploads.add_part, content=new.finish(), **said))


def finish(world: World, upload: Upload, data: bytes, now_s: float = NOW_S) -> str:
    with incoming(world.store) as new:
        new.write(data)
        ended = partial(uploads.complete, content=new.finish(), upload=upload, now_s=now_s)
        return world.store.write(ended).id


def look(world: World, upload: Upload, now_s: float = NOW_S) -> Upload:
    with world.store.read() as db:
        return uploads.upload_of(db, world.project, upload.id, now_s=now_s)


def parts(world: World, upload: Upload, *part_ids: str) -> list[Part]:
    with world.store.read() as db:
        return uploads.parts_of(db, upload, part_ids)


def test_parts_are_given_in_the_order_asked_for(world: World) -> None:
    upload = begin(world)
    one, two = add(world, upload, b"abcd"), add(world, upload, b"ef")
    assert parts(world, upload, two.id, one.id) == [two, one]


def test_parts_must_add_up_and_be_of_the_upload(world: World) -> None:
    upload, other = begin(world), begin(world)
    one, two = add(world, upload, b"abcd"), add(world, upload, b"ef")
    foreign = add(world, other, b"ef")
    for wrong in ((one.id,), (one.id, foreign.id), (one.id, one.id), ("part_0",)):
        with pytest.raises(PartsError):
            parts(world, upload, *wrong)
    assert parts(world, upload, one.id, two.id) == [one, two]


@pytest.mark.parametrize("how", ["completed", "cancelled", "expired"])
def test_an_ended_upload_has_no_parts_and_takes_none(world: World, how: str) -> None:
    upload, late_s = begin(world), NOW_S
    add(world, upload, b"abcdef")
    if how == "completed":
        file_id = finish(world, upload, b"abcdef")
        assert look(world, upload).file_id == file_id
    elif how == "cancelled":
        world.store.write(
            partial(uploads.cancel, project_id=world.project, upload_id=upload.id, now_s=NOW_S)
        )
    else:
        late_s = NOW_S + 60
        assert world.store.write(partial(uploads.expire, now_s=late_s)) == 1
        assert world.store.write(partial(uploads.expire, now_s=late_s)) == 0
    assert look(world, upload).state == how
    with world.store.read() as db:
        assert uploads.arrived(db, upload) == []
    with pytest.raises(UploadStateError, match=how):
        add(world, upload, b"x", now_s=late_s)
    with pytest.raises(UploadStateError, match=how):
        finish(world, upload, b"abcdef", late_s)


def test_an_upload_is_over_at_its_time_before_anybody_sweeps(world: World) -> None:
    upload = begin(world)
    assert look(world, upload, NOW_S + 59).state == "pending"
    assert look(world, upload, NOW_S + 60).state == "expired"


def test_uploads_of_another_project_are_not_there(world: World) -> None:
    upload, other = begin(world), world.new_project("other")
    with pytest.raises(UnknownUploadError):
        add(world, upload, b"x", project_id=other)
    with pytest.raises(UnknownUploadError), world.store.read() as db:
        uploads.upload_of(db, other, upload.id, now_s=NOW_S)
