"""First answers: kept with what was made, for a day, for one request of one project."""

from functools import partial

import pytest
from sqlalchemy import Connection, func, select
from tests.store.world import World

from preftune.store import idempotency, uploads
from preftune.store.idempotency import KEPT_S, Answers, KeyReusedError, request_hash
from preftune.store.job_schema import uploads as table
from preftune.store.uploads import NewUpload

NOW_S = 1000.0
REQUEST = request_hash("POST", "/v1/uploads", b"{}")


def answers(
    world: World, *, key: str = "k", request: str = REQUEST, now_s: float = NOW_S
) -> Answers:
    return Answers(project_id=world.project, key=key, request=request, now_s=now_s)


def make(db: Connection, world: World) -> str:
    new = NewUpload(project_id=world.project, filename="f", purpose="evals", mime_type="x", bytes=1)
    return uploads.create(db, new, now_s=NOW_S, expires_s=NOW_S + 1).id


def made(world: World) -> int:
    with world.store.read() as db:
        return db.scalar(select(func.count()).select_from(table)) or 0


def once(world: World, what: Answers) -> tuple[str, bool]:
    return world.store.write(lambda db: what.once(db, partial(make, world=world)))


def test_the_first_answer_is_given_again_and_nothing_is_made(world: World) -> None:
    first = once(world, answers(world))
    assert first[1] is True
    assert once(world, answers(world, now_s=NOW_S + KEPT_S)) == (first[0], False)
    assert made(world) == 1
    with world.store.read() as db:
        assert answers(world).given(db) == first[0]
        assert answers(world, key="other").given(db) is None


def test_another_request_under_the_key_is_refused(world: World) -> None:
    once(world, answers(world))
    for other in (
        request_hash("POST", "/v1/files", b"{}"),
        request_hash("POST", "/v1/uploads", b""),
    ):
        with pytest.raises(KeyReusedError):
            once(world, answers(world, request=other))
    assert made(world) == 1


def test_after_a_day_the_key_is_free(world: World) -> None:
    first, _ = once(world, answers(world))
    later = answers(world, request=request_hash("DELETE", "/", b""), now_s=NOW_S + KEPT_S + 1)
    assert once(world, later) != (first, False)
    assert made(world) == 2
    forget = partial(idempotency.forget_old, now_s=NOW_S + KEPT_S + 2)
    assert world.store.write(forget) == 0  # the second is fresh
    assert world.store.write(partial(forget, now_s=NOW_S + 3 * KEPT_S)) == 1


def test_what_fails_leaves_neither_the_thing_nor_the_answer(world: World) -> None:
    def fails(db: Connection) -> str:
        make(db, world)
        raise ValueError("after it was made")

    with pytest.raises(ValueError, match="after it was made"):
        world.store.write(lambda db: answers(world).once(db, fails))
    assert made(world) == 0
    with world.store.read() as db:
        assert answers(world).given(db) is None


def test_hashes_tell_method_path_and_body_apart() -> None:
    said = [("POST", "/a", b"b"), ("POST", "/ab", b""), ("POS", "T/a", b"b"), ("POST", "/a", b"c")]
    assert len({request_hash(*one) for one in said}) == len(said)
