"""How the server says no, what it refuses to read, and what it writes down about that."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from tests.serving.conftest import App

from preftune.serving.security import CONTENT_POLICY

LEAKS = re.compile(r"Traceback|SELECT |INSERT |sqlalchemy|sqlite|/src/|\.py\b|labels\.db")
JSON, HTML = {"Content-Type": "application/json"}, {"Accept": "text/html"}


@pytest.mark.parametrize("status", [404, 405])
def test_t28_people_get_a_page_and_programs_get_json(app: App, status: int) -> None:
    client = app.client("rater")
    path = {404: "/nothing", 405: "/api/login"}[status]
    page = client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
    data = client.get(path)
    assert (page.status_code, data.status_code) == (status, status)
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["x-request-id"] in page.text
    error = data.json()["error"]
    assert error["request"] == data.headers["x-request-id"]
    assert error["type"] == "invalid_request_error"


def test_a_person_who_is_not_signed_in_is_sent_there_and_back(app: App) -> None:
    answer = app.client().get("/people?x=1", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/people")


def test_t28_a_crash_says_nothing_but_its_number(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    client = app.client("rater")
    app.database.write(lambda db: db.execute(text("ALTER TABLE sessions RENAME TO gone")))
    data, page = client.get("/api/session"), client.get("/projects", headers=HTML)
    assert (data.status_code, page.status_code) == (500, 500)
    for answer in (data, page):
        assert not LEAKS.search(answer.text)
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
    assert data.json()["error"]["request"] in caplog.text
    assert "gone" not in data.text
    assert "no such table" in caplog.text  # the reason is in the log


@pytest.mark.parametrize("body", [b"x" * ((8 << 20) + 1), (b"x" * (1 << 20) for _ in range(9))])
def test_a_body_over_the_limit_is_refused(app: App, body: bytes | Iterator[bytes]) -> None:
    answer = app.client().post("/api/login", content=body, headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        '{"email": "a\\u0000@b", "password": "x"}',
        '{"email": "\\ud800@b", "password": "x"}',
        '{"email": "a@b", "password": "x", "\\ud800": 1}',
        '{"email": "a@b", "password": NaN}',
        '{"email": "a@b", "password": 1e999}',
        '{"email": ["a@b"], "password": {"$ne": ""}}',
        '{"email": "a@b", "password": "x", "is_admin": true}',
        "[" * 100_000,
        "{",
        "",
        "null",
        '"\\u0000"',
    ],
)
def test_odd_json_is_refused_in_plain_words(app: App, body: str) -> None:
    answer = app.client().post("/api/login", content=body.encode(), headers=JSON)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/login%00", "/p/%0d%0aX: y/label", "/login?next=%00", "/%e2%80%ae"]
)
def test_addresses_with_control_characters_are_refused(app: App, path: str) -> None:
    assert app.client().get(path).status_code == 400


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", ""])
def test_a_foreign_name_for_this_machine_is_refused(app: App, host: str) -> None:
    assert app.client().get("/login", headers={"Host": host}).status_code == 400
    assert app.client().get("/login", headers={"Host": "localhost:8000"}).status_code == 200


def test_t26_the_log_has_a_json_line_per_request_and_no_secret(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    client = app.client("rater")
    with caplog.at_level(logging.INFO, logger="preftune.access"):
        client.get('/x"}%20{"forged?token=QUERY-CANARY')
        client.post("/api/invites/look", json={"token": "BODY-CANARY"})
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [line["path"] for line in lines] == ['/x"} {"forged', "/api/invites/look"]
    assert [line["status"] for line in lines] == [404, 409]
    assert {"at", "request", "method", "ms", "person", "address"} <= set(lines[0])
    assert "CANARY" not in caplog.text
    assert client.cookies["preftune"] not in caplog.text
