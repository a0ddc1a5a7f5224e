"""A forgotten password: who makes a link, what it opens, how often and for how long."""

import time
from functools import partial

import httpx2
import pytest
from sqlalchemy import select
from tests.serving.browser_world import COOKIE
from tests.serving.conftest import WORDS, App, plant

from preftune.errors import StoreError
from preftune.serving.password_reset import HOLDS_S, reset_by_email
from preftune.store import people
from preftune.store.backup import backup
from preftune.store.schema import resets

NEW = "trombone lantern pickle fjord"


def link_for(app: App, role: str, *, by: str = "admin") -> httpx2.Response:
    return app.client(by).post(f"/api/people/{app.cast.ids[role]}/reset", json={})


def token_for(app: App, role: str) -> str:
    return str(link_for(app, role).json()["link"]).partition("/reset#")[2]


def use(app: App, token: str, new: str = NEW) -> httpx2.Response:
    return app.client().post("/api/reset", json={"token": token, "new": new})


def can_sign_in(app: App, role: str, password: str) -> bool:
    body = {"email": app.cast.email(role), "password": password}
    return app.client().post("/api/login", json=body).status_code == 200


def test_a_link_sets_a_password_once_and_ends_every_session(app: App) -> None:
    open_elsewhere = app.client("rater")
    token = token_for(app, "rater")
    assert open_elsewhere.get("/api/session").status_code == 200  # making it ends nothing
    looked = app.client().post("/api/reset/look", json={"token": token})
    assert looked.json() == {"name": "Rater Example", "email": "rater@example.org"}
    visitor = app.client()
    answer = visitor.post("/api/reset", json={"token": token, "new": NEW})
    assert answer.json()["next"] == "/projects"
    assert visitor.get("/api/session").json()["name"] == "Rater Example"
    assert open_elsewhere.get("/api/session").status_code == 401
    assert can_sign_in(app, "rater", NEW)
    assert not can_sign_in(app, "rater", WORDS)
    again = use(app, token, "another trombone lantern")
    assert again.status_code == 409
    assert "used, replaced, or has expired" in again.json()["error"]["message"]
    assert can_sign_in(app, "rater", NEW)


def test_a_link_opens_no_session(app: App) -> None:
    token = token_for(app, "lead")
    client = app.client()
    for cookie in (token, f"reset {token}"):
        plant(client, cookie)
        assert client.get("/api/session").status_code == 401
    body = {"token": token, "name": "x", "email": "x@example.org", "password": NEW}
    assert app.client().post("/api/invites/accept", json=body).status_code == 409
    session = app.client("lead").cookies[COOKIE]
    assert use(app, session).status_code == 409  # nor does a session set a password


def test_a_link_holds_for_a_day_and_until_the_next(app: App) -> None:
    first = token_for(app, "rater")
    second = token_for(app, "rater")
    other = token_for(app, "rater2")
    assert use(app, first).status_code == 409
    made_s = time.time()
    with app.database.read() as db:
        assert (
            people.find_reset(db, second, now_s=made_s + HOLDS_S - 60).email == "rater@example.org"
        )
        with pytest.raises(StoreError, match="expired"):
            people.find_reset(db, second, now_s=made_s + HOLDS_S + 1)
    assert use(app, other).status_code == 200  # another person's is left alone


def test_a_weak_password_is_refused_and_the_link_still_holds(app: App) -> None:
    token = token_for(app, "rater")
    for weak in ("short", "rater rater rater", "123456789012"):
        assert use(app, token, weak).status_code == 422
    assert use(app, token).status_code == 200


def test_only_admins_make_links_and_none_for_the_disabled(app: App) -> None:
    assert [link_for(app, "rater", by=by).status_code for by in ("lead", "rater2")] == [404, 404]
    token = token_for(app, "rater")
    app.database.write(lambda db: people.disable(db, app.cast.ids["rater"]))
    assert use(app, token).status_code == 409
    refused = link_for(app, "rater")
    assert refused.status_code == 409
    assert "disabled" in refused.json()["error"]["message"]
    assert app.client("admin").post("/api/people/nobody/reset", json={}).status_code == 409


def test_a_new_password_of_ones_own_ends_the_link(app: App) -> None:
    token = token_for(app, "rater")
    body = {"current": WORDS, "new": NEW}
    assert app.client("rater").post("/api/password", json=body).status_code == 200
    assert use(app, token).status_code == 409


def test_the_console_makes_a_link_by_e_mail_address(app: App) -> None:
    token = reset_by_email(app.database, " ADMIN@example.org ")
    assert use(app, token).status_code == 200
    assert can_sign_in(app, "admin", NEW)
    with pytest.raises(StoreError, match=r"nobody@example\.org: is not there"):
        reset_by_email(app.database, "nobody@example.org")


def test_the_store_keeps_no_token_and_a_backup_no_link(
    app: App, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rater, expires_s = app.cast.ids["rater"], time.time() + HOLDS_S
    make = partial(people.make_reset, user_id=rater, expires_s=expires_s)
    token = app.database.write(make)
    with app.database.read() as db:
        kept = db.scalars(select(resets.c.token_hash)).all()
    assert kept == [people.token_hash(token)]
    folder = tmp_path_factory.mktemp("backup") / "b"
    assert "resets" not in backup(app.database, folder)
