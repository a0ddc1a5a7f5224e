"""What holds for every route there is: the lists here are made from the application itself."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text
from starlette.testclient import TestClient
from tests.serving.conftest import App, Cast, make_cast

from preftune.errors import SettingsError
from preftune.serving.security import CONTENT_POLICY, OVERRIDES
from preftune.serving.settings import ServerSettings
from preftune.settings import build
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.items import Content, NewItem, add_items
from preftune.types import Response, assistant, make_prompt, user

UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
FOR_VISITORS = {
    "/",
    "/login",
    "/setup",
    "/invite",
    "/reset",
    "/api/login",
    "/api/logout",
    "/api/invites/look",
    "/api/invites/accept",
    "/api/reset",
    "/api/reset/look",
}
FOR_ADMINS = {
    "/people",
    "/api/people/{user_id}/disable",
    "/api/people/{user_id}/enable",
    "/api/people/{user_id}/reset",
    "/api/invites/{invite_id}/withdraw",
    "/api/projects",
}
IN_PROJECT, FOR_LEADS = "/p/{project_id}/", "/p/{project_id}/lead"
SECRET = ("GOLD-CANARY", "MODEL-CANARY")  # never for raters
WORDS_OF_PROJECT = ("PROMPT-CANARY", "ANSWER-CANARY", "GUIDE-CANARY", "Care desk", *SECRET)
LEAKS = re.compile(r"Traceback|SELECT |INSERT |sqlalchemy|sqlite|/src/|\.py\b|labels\.db")
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

JSON, HTML = {"Content-Type": "application/json"}, {"Accept": "text/html"}

Route = tuple[str, str]  # method, path with its {names}


def routes(app: App) -> list[Route]:
    """Every route of the application, hidden ones too."""
    return sorted(
        (method, str(context.path))
        for context in iter_route_contexts(app.asgi.routes)
        for method in context.methods or ()
    )


@pytest.fixture
def full(app: App) -> App:
    """The application with items, gold, a guideline and an invitation that waits."""
    gold = {"overall": {"kind": "scale", "grade": 2, "why": "GOLD-CANARY"}}
    prompt = make_prompt(user("PROMPT-CANARY"))
    items = [
        NewItem(
            id=f"c{number}",
            content=Content(
                prompt=prompt,
                responses=tuple(
                    Response(
                        id=f"r{number}{side}",
                        prompt_id=prompt.id,
                        messages=(assistant(f"ANSWER-CANARY {number}{side}"),),
                        generator="MODEL-CANARY",
                    )
                    for side in "ab"
                ),
            ),
            use="gold" if number == 0 else "label",
            gold=gold if number == 0 else {},
        )
        for number in range(4)
    ]
    desk = app.cast.project_id
    write = app.database.write
    write(lambda db: add_items(db, desk, items, by="test"))
    write(lambda db: projects.publish_guideline(db, desk, "GUIDE-CANARY", base=0, by="test"))
    write(lambda db: people.invite(db, role="rater", project_id=desk, by="test", expires_s=9e9))
    return app


def address(app: App, path: str) -> str:
    """Return a path with ids that are there."""
    with app.database.read() as db:
        item_id = db.execute(text("SELECT id FROM items WHERE use = 'gold'")).scalar_one()
        invite_id = db.execute(text("SELECT token_hash FROM invites")).scalar_one_or_none()
    known = {
        "project_id": app.cast.project_id,
        "user_id": app.cast.ids["rater2"],
        "item_id": item_id,
        "invite_id": invite_id or "gone",
        "round": "0",
    }
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: known.get(found[1], "1"), path)


def ask(client: TestClient, app: App, route: Route) -> httpx2.Response:
    method, path = route
    where = address(app, path)
    return client.request(method, where, json={}) if method in UNSAFE else client.get(where)


def overridden(client: TestClient, name: str, method: str, path: str) -> httpx2.Response:
    return client.get(path, headers={name: method})


def allowed(role: str | None, path: str) -> set[int] | None:
    """Return the codes a role must get on a route; None: it may use it."""
    if path in FOR_VISITORS:
        return None
    if role is None:
        return {401}
    if path in FOR_ADMINS:
        return None if role == "admin" else {404}
    if path.startswith(IN_PROJECT) and role == "outsider":
        return {404}
    if path.startswith(FOR_LEADS) and role == "rater":
        return {404}
    return None


def test_t02_a_forged_request_is_refused_on_every_unsafe_route(full: App) -> None:
    client = full.client("admin")
    forged: dict[str, Callable[[str, str], httpx2.Response]] = {
        "no token": lambda method, path: client.request(
            method, path, json={}, headers={"X-CSRF-Token": ""}
        ),
        "token of another session": lambda method, path: client.request(
            method,
            path,
            json={},
            headers={"X-CSRF-Token": full.client("admin").headers["X-CSRF-Token"]},
        ),
        "foreign origin": lambda method, path: client.request(
            method, path, json={}, headers={"Origin": "https://evil.example"}
        ),
        "origin null": lambda method, path: client.request(
            method, path, json={}, headers={"Origin": "null"}
        ),
        "cross site": lambda method, path: client.request(
            method, path, json={}, headers={"Sec-Fetch-Site": "cross-site"}
        ),
        "sibling site": lambda method, path: client.request(
            method, path, json={}, headers={"Sec-Fetch-Site": "same-site"}
        ),
        "form": lambda method, path: client.request(method, path, data={"name": "x"}),
        "text": lambda method, path: client.request(
            method, path, content="{}", headers={"Content-Type": "text/plain"}
        ),
        "no type": lambda method, path: client.request(method, path, content="{}"),
        "override in the query": lambda method, path: client.get(f"{path}?_method={method}"),
    }
    for name in OVERRIDES:
        forged[name] = partial(overridden, client, name)
    unsafe = [route for route in routes(full) if route[0] in UNSAFE]
    passed = [
        (method, path, kind, answer.status_code)
        for method, path in unsafe
        for kind, send in forged.items()
        if (answer := send(method, address(full, path))).status_code not in (403, 415)
    ]
    assert len(unsafe) >= 16
    assert passed == []


def test_t02_what_a_page_of_ours_sends_is_let_through(full: App) -> None:
    client = full.client("lead")
    for site in (None, "same-origin"):
        headers = {"Sec-Fetch-Site": site} if site else {}
        answer = client.post("/api/invites/look", json={"token": "x"}, headers=headers)
        assert answer.status_code == 409  # the route itself: no such invitation
    del client.headers["Origin"]
    assert client.post("/api/invites/look", json={"token": "x"}).status_code == 403


def test_t07_t32_no_route_answers_whom_it_should_not(full: App) -> None:
    wrong: list[object] = []
    for role in (None, "outsider", "rater", "lead", "admin"):
        client = full.client(role)
        if role == "rater":
            client.get(f"/p/{full.cast.project_id}/label/next")  # an item before them
        for method, path in routes(full):
            if path == "/api/logout":  # the session is needed for the rest
                continue
            answer = ask(client, full, (method, path))
            codes = allowed(role, path)
            if codes and answer.status_code not in codes:
                wrong.append((role, method, path, answer.status_code))
            if answer.status_code >= 500 or LEAKS.search(answer.text):
                wrong.append((role, method, path, answer.status_code, answer.text[:200]))
            hidden = {None: WORDS_OF_PROJECT, "outsider": WORDS_OF_PROJECT, "rater": SECRET}
            found = [word for word in hidden.get(role, ()) if word in answer.text]
            wrong += [(role, method, path, word) for word in found if path != "/api/invites/look"]
    assert wrong == []


def test_t07_a_project_of_others_looks_like_one_that_is_not_there(full: App) -> None:
    outsider = full.client("outsider")
    paths = [path for method, path in routes(full) if method == "GET" and IN_PROJECT in path]
    nowhere = f"prj-{'0' * 32}"
    for path in paths:
        theirs = outsider.get(address(full, path))
        gone = outsider.get(address(full, path).replace(full.cast.project_id, nowhere))
        odd = outsider.get(address(full, path).replace(full.cast.project_id, "x' OR 1=1 --"))
        said = [one.json()["error"] | {"request": ""} for one in (theirs, gone, odd)]
        assert said[0] == said[1] == said[2], path
        assert {one.status_code for one in (theirs, gone, odd)} == {404}, path


def test_t01_t29_every_answer_has_the_headers(full: App) -> None:
    client = full.client("admin")
    answers = [ask(client, full, route) for route in routes(full) if route[1] != "/api/logout"]
    answers += [client.get(f"/static/{name}") for name in ("base.css", "api.js", "nothing.js")]
    answers += [
        client.get("/nothing/here"),
        client.request("DELETE", "/login", json={}),
        client.post("/login", data={"a": "b"}),
        client.get("/login", headers={"Host": "evil.example"}),
        client.post("/api/login", content=b"x" * (9 << 20), headers=JSON),
    ]
    for answer in answers:
        have = {name: answer.headers.get(name) for name in HEADERS}
        assert have == HEADERS, answer.url
        assert answer.headers["x-request-id"], answer.url
        assert answer.headers["cache-control"] == "no-store", answer.url
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers


def test_t29_under_tls_browsers_are_told_to_stay_there(app: App) -> None:
    safe = App(
        database=app.database,
        cast=app.cast,
        settings=ServerSettings(public_url="https://label.example.org"),
    )
    with safe.clients:
        answer = safe.client("rater").get("/projects")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert safe.client("rater").get("/login", headers={"Host": "other"}).status_code == 400


def test_static_files_are_typed_and_nothing_else_is_served(app: App) -> None:
    client = app.client()
    assert client.get("/static/base.css").headers["content-type"].startswith("text/css")
    assert "javascript" in client.get("/static/api.js").headers["content-type"]
    for path in (  # t15
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "....//app.py",
        "..\\app.py",
        "%5c..%5capp.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "",
        ".",
    ):
        assert client.get(f"/static/{path}").status_code in (400, 404), path


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"host": "::"}, "passwords would cross the network"),
        ({"public_url": "http://label.example.org"}, "no https origin"),
        ({"public_url": "https://label.example.org/path"}, "no https origin"),
        ({"port": 70000}, "port"),
    ],
)
def test_t23_unsafe_settings_are_refused(flags: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        build(ServerSettings, flags, where="test")


def test_t23_beyond_this_machine_only_when_told(tmp_path: Path) -> None:
    settings = build(ServerSettings, {"host": "::", "insecure": True}, where="test")
    assert settings.origin("label.lan:8000") == "http://label.lan:8000"
    assert ServerSettings().origin("label.lan:8000") is None
    assert ServerSettings().origin("[::1]:8000") == "http://[::1]:8000"


def test_names_are_shown_as_they_are_and_cannot_act(tmp_path: Path) -> None:
    odd = '<img src=x onerror=alert(1)>\u202e"\u0007'
    with Database(tmp_path / "labels.db") as database:
        cast: Cast = make_cast(database)
        database.write(
            lambda db: people.add_person(
                db, email="x@example.org", name=odd, password_hash="-", is_admin=True
            )
        )
        made = App(database=database, cast=cast, settings=ServerSettings())
        with made.clients:
            page = made.client("admin").get("/people", headers=HTML).text
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;⟨U+202E⟩&#34;⟨U+0007⟩" in page
