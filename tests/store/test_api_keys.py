"""Keys of the API in the store: only their hash is kept, and what ends a key ends it at once."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy import select
from tests.store.world import World

from preftune.errors import StoreError
from preftune.store import api_keys
from preftune.store.api_keys import ApiKey, UnknownKeyError
from preftune.store.job_schema import api_keys as table

NOW_S = 1000.0


def make(world: World, **how: Any) -> tuple[ApiKey, str]:
    said = {"project_id": world.project, "name": "ci", "by": "lead", "now_s": NOW_S, **how}
    return world.store.write(partial(api_keys.make_key, **said))


def find(world: World, secret: str, now_s: float = NOW_S) -> ApiKey | None:
    with world.store.read() as db:
        return api_keys.key_of(db, secret, now_s=now_s)


def test_a_key_is_found_by_its_secret_alone(world: World) -> None:
    key, secret = make(world, scopes=("files:read", "chat:write"), requests_per_minute=5)
    assert len(secret) == len("pft_") + 43  # 256 bits, six to a character
    assert find(world, secret) == key
    assert key.scopes == ("files:read", "chat:write")
    assert find(world, secret[:-1]) is None
    assert find(world, "") is None
    assert find(world, key.shown) is None


def test_t05_the_secret_is_nowhere_in_the_store(world: World) -> None:
    _, secret = make(world)
    with world.store.read() as db:
        (row,) = db.execute(select(table)).all()
    assert not [value for value in row if isinstance(value, str) and secret[12:] in value]
    assert len(row.secret_hash) == 64


def test_a_key_ends_at_its_time_and_when_revoked(world: World) -> None:
    key, secret = make(world, expires_s=NOW_S + 10)
    assert find(world, secret, NOW_S + 9.9) == key
    assert find(world, secret, NOW_S + 10) is None
    key, secret = make(world)
    revoke = partial(api_keys.revoke, key_id=key.id, now_s=NOW_S)
    with pytest.raises(UnknownKeyError):
        world.store.write(partial(revoke, project_id=world.new_project("other")))
    assert find(world, secret) == key
    world.store.write(partial(revoke, project_id=world.project))
    assert find(world, secret) is None
    with pytest.raises(UnknownKeyError):
        world.store.write(partial(revoke, project_id=world.project))


def test_lists_are_of_one_project_and_show_no_revoked_key(world: World) -> None:
    first, _ = make(world)
    gone, _ = make(world, now_s=NOW_S + 1)
    last, _ = make(world, now_s=NOW_S + 2)
    make(world, project_id=world.new_project("other"))
    revoke = partial(api_keys.revoke, project_id=world.project, key_id=gone.id, now_s=NOW_S)
    world.store.write(revoke)
    with world.store.read() as db:
        assert api_keys.keys_of(db, world.project) == [last, first]


def test_the_last_use_is_kept(world: World) -> None:
    key, secret = make(world)
    world.store.write(partial(api_keys.used, key_id=key.id, now_s=NOW_S + 7))
    found = find(world, secret)
    assert found is not None
    assert found.used_s == NOW_S + 7


@pytest.mark.parametrize(
    "how",
    [
        {"name": " "},
        {"scopes": ()},
        {"scopes": ("all", "root")},
        {"requests_per_minute": 0},
        {"requests_per_minute": 10**22},
        {"expires_s": 253_402_300_800.0},
        {"expires_s": float("nan")},
        {"expires_s": float("inf")},
        {"expires_s": NOW_S},
        {"project_id": "prj-none"},
    ],
)
def test_a_key_that_cannot_be_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        make(world, **how)
