"""Who gets in, who does not, and for how long."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from tests.serving.browser_world import COOKIE
from tests.serving.conftest import WORDS, App, plant

from preftune.errors import DataError
from preftune.serving import passwords
from preftune.serving.app import setup_link
from preftune.serving.security import csrf_token
from preftune.serving.settings import ServerSettings
from preftune.serving.web import local_path
from preftune.store import people, projects
from preftune.store.database import Database

GOOD = "trombone lantern pickle fjord"


def sign_in(app: App, role: str, password: str = WORDS, address: str = "a") -> httpx2.Response:
    body = {"email": app.cast.email(role), "password": password}
    return app.client(address=address).post("/api/login", json=body)


def invite(app: App, by: str, role: str, project_id: str | None) -> httpx2.Response:
    return app.client(by).post("/api/invites", json={"role": role, "project_id": project_id})


def token_of(answer: httpx2.Response) -> str:
    return str(answer.json()["link"]).partition("#")[2]


def newcomer(token: str, email: str = "new@example.org") -> dict[str, str]:
    return {"token": token, "name": "New One", "email": email, "password": GOOD}


def test_signing_in_opens_a_session_under_a_new_token(app: App) -> None:
    client = app.client()
    before = client.cookies[COOKIE]
    body = {"email": " RATER@example.org ", "password": WORDS}
    answer = client.post("/api/login", json=body)
    assert answer.status_code == 200
    after = client.cookies[COOKIE]
    assert after != before
    assert client.get("/api/session").json() == {
        "name": "Rater Example",
        "csrf": csrf_token(after),
    }
    plant(client, before)
    assert client.get("/api/session").status_code == 401  # t03: what was planted opens nothing


def test_the_session_cookie_is_out_of_reach(
    app: App, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = sign_in(app, "rater").headers["set-cookie"]
    assert plain.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(plain.split("; "))
    assert "Secure" not in plain
    safe = App(
        database=app.database,
        cast=app.cast,
        settings=ServerSettings(public_url="https://label.example.org"),
    )
    with safe.clients:
        under_tls = sign_in(safe, "rater").headers["set-cookie"]
    assert under_tls.startswith("__Host-preftune=")
    assert {"HttpOnly", "Path=/", "SameSite=lax", "Secure"} <= set(under_tls.split("; "))
    assert "Domain" not in under_tls


def test_t04_a_wrong_password_and_an_unknown_address_look_the_same(app: App) -> None:
    wrong = sign_in(app, "rater", "not the password")
    unknown = app.client().post("/api/login", json={"email": "x@example.org", "password": "y"})
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    said = [answer.json()["error"] for answer in (wrong, unknown)]
    assert said[0]["message"] == said[1]["message"]
    assert {key for key, value in said[0].items() if said[1][key] != value} == {"request"}


def test_t04_an_unknown_address_takes_as_long_as_a_wrong_password() -> None:
    """Processor time of this thread, the two by turns: other work on the machine does not count."""
    known = passwords.hash_password(WORDS)
    assert not passwords.is_password("warm up", None)
    took: dict[str | None, list[float]] = {known: [], None: []}
    for _ in range(15):
        for kept, times in took.items():
            began = time.thread_time()
            assert not passwords.is_password("not the password", kept)
            times.append(time.thread_time() - began)
    wrong, unknown = statistics.median(took[known]), statistics.median(took[None])
    assert abs(wrong - unknown) < 0.1 * wrong


def test_t04_five_wrong_tries_lock_the_account_even_for_the_right_password(app: App) -> None:
    codes = [sign_in(app, "rater", "wrong", address=f"a{n}").status_code for n in range(6)]
    assert codes == [401] * 5 + [429]
    locked = sign_in(app, "rater", address="b")
    assert (locked.status_code, locked.headers["retry-after"]) == (429, "900")
    assert sign_in(app, "lead", address="b").status_code == 200


def test_t04_five_wrong_tries_lock_the_address_for_every_account(app: App) -> None:
    for role in ("admin", "lead", "rater", "rater2", "outsider"):
        assert sign_in(app, role, "wrong", address="c").status_code == 401
    assert sign_in(app, "lead", address="c").status_code == 429
    assert sign_in(app, "lead", address="d").status_code == 200


def test_t04_tries_sent_at_once_are_counted_before_they_are_made(app: App) -> None:
    clients = [app.client(address=f"e{n}") for n in range(12)]
    body = {"email": app.cast.email("rater"), "password": "wrong"}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda client: client.post("/api/login", json=body), clients))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


def test_t04_there_is_no_account_before_the_setup_link_is_used(tmp_path: object) -> None:
    with Database(f"{tmp_path}/new.db") as database:
        link = setup_link(database, "http://127.0.0.1:8000")
        assert link is not None
        with database.read() as db:
            assert people.people(db) == []
        again = setup_link(database, "http://127.0.0.1:8000")
        assert again not in (None, link)


def test_passwords_that_are_guessed_first_are_refused() -> None:
    for weak in (
        "short",
        "qwertyuiop123",
        "PasswordPassword",
        "aaaaaaaaaaaaaaaa",
        "121212121212",
        "Ada Lovelace 1",
        "x" * 201,
    ):
        with pytest.raises(DataError, match=r"^password: "):
            passwords.check_new_password(weak, email="ada@example.org", name="Ada Lovelace")
    passwords.check_new_password(GOOD, email="ada@example.org", name="Ada Lovelace")


def test_the_hash_is_argon2id_with_19_mib_and_two_passes() -> None:
    assert passwords.hash_password(GOOD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert len(passwords.common_passwords()) >= 250
    assert all(len(word) >= passwords.SHORTEST for word in passwords.common_passwords())


def test_signing_out_ends_the_session_on_the_server(app: App) -> None:
    client = app.client("rater")
    token = client.cookies[COOKIE]
    assert client.post("/api/logout", json={}).status_code == 200
    plant(client, token)
    assert client.get("/api/session").status_code == 401


def test_t03_signing_in_again_ends_the_session_before(app: App) -> None:
    client = app.client("rater")
    before = client.cookies[COOKIE]
    body = {"email": app.cast.email("lead"), "password": WORDS}
    assert client.post("/api/login", json=body).status_code == 200
    plant(client, before)
    assert client.get("/api/session").status_code == 401


def test_t03_a_new_password_ends_every_other_session(app: App) -> None:
    here, elsewhere = app.client("rater"), app.client("rater")
    before = here.cookies[COOKIE]
    wrong = here.post("/api/password", json={"current": "wrong", "new": GOOD})
    assert wrong.status_code == 403
    changed = here.post("/api/password", json={"current": WORDS, "new": GOOD})
    assert changed.status_code == 200
    assert here.cookies[COOKIE] != before
    assert here.get("/api/session").status_code == 200
    assert elsewhere.get("/api/session").status_code == 401
    assert sign_in(app, "rater").status_code == 401
    assert sign_in(app, "rater", GOOD).status_code == 200


def test_t03_a_disabled_person_is_out_at_once(app: App) -> None:
    rater, admin = app.client("rater"), app.client("admin")
    path = f"/api/people/{app.cast.ids['rater']}"
    assert admin.post(f"{path}/disable", json={}).status_code == 200
    assert rater.get("/api/session").status_code == 401
    assert sign_in(app, "rater").status_code == 401
    assert admin.post(f"{path}/enable", json={}).status_code == 200
    assert rater.get("/api/session").status_code == 401
    assert sign_in(app, "rater").status_code == 200


def test_an_invitation_makes_an_account_once(app: App) -> None:
    token = token_of(invite(app, "admin", "rater", app.cast.project_id))
    looked = app.client().post("/api/invites/look", json={"token": token})
    assert looked.json() == {"role": "rater", "project": "Care desk"}
    client = app.client()
    assert client.post("/api/invites/accept", json=newcomer(token)).status_code == 200
    assert client.get("/api/session").json()["name"] == "New One"
    second = app.client().post("/api/invites/accept", json=newcomer(token, "b@example.org"))
    assert second.status_code == 409
    with app.database.read() as db:
        found = people.account(db, "new@example.org")
        assert found is not None
        member = projects.member(db, app.cast.project_id, found[0].id)
        assert member is not None
        assert member.role == "rater"
        assert people.account(db, "b@example.org") is None


def test_an_invitation_gives_nobody_the_account_of_another(app: App) -> None:
    token = token_of(invite(app, "admin", "admin", None))
    taken = app.client().post("/api/invites/accept", json=newcomer(token, "lead@example.org"))
    assert taken.status_code == 409
    assert app.client("rater2").post("/api/invites/join", json={"token": token}).status_code == 200
    assert app.client("rater2").get("/people").status_code == 200


@pytest.mark.parametrize(
    ("by", "role", "status"),
    [
        ("lead", "rater", 200),
        ("lead", "lead", 200),
        ("rater", "rater", 404),
        ("outsider", "rater", 404),
        ("admin", "lead", 200),
    ],
)
def test_leads_invite_to_their_own_project_alone(app: App, by: str, role: str, status: int) -> None:
    assert invite(app, by, role, app.cast.project_id).status_code == status


def test_admins_alone_make_admins_and_projects(app: App) -> None:
    body = {"name": "Third", "kind": "binary", "dimensions": ["overall"], "raters_per_item": 2}
    for role, status in (("lead", 404), ("rater", 404), ("admin", 200)):
        assert invite(app, role, "admin", None).status_code == status
        assert app.client(role).post("/api/projects", json=body).status_code == status
    again = app.client("admin").post("/api/projects", json=body)
    assert again.status_code == 409
    assert "Take another name" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "aim"),
    [
        ("/p/x/label", "/p/x/label"),
        ("//evil.example", "/projects"),
        ("https://evil.example", "/projects"),
        ("/\\evil.example", "/projects"),
        ("javascript:alert(1)", "/projects"),
        ("/a\nb", "/projects"),
    ],
)
def test_after_signing_in_one_stays_on_this_site(path: str, aim: str) -> None:
    assert local_path(path, otherwise="/projects") == aim
