"""How the API says no: OpenAI's object with every status, and never the words of a server."""

import json

import pytest
from tests.api.conftest import Api, refused

NEW_KEY = "/v1/keys"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/files/a/b/c", "/v1/evals"])
@pytest.mark.parametrize("accept", ["application/json", "text/html", "*/*"])
def test_unknown_routes_are_404_in_json_whatever_is_accepted(
    api: Api, path: str, accept: str
) -> None:
    for client in (api.client(), api.with_secret(None)):
        error = refused(client.get(path, headers={"Accept": accept}), 404)
        assert error["type"] == "invalid_request_error"


def test_another_verb_is_405(api: Api) -> None:
    answer = api.client().put("/v1/files")
    refused(answer, 405)
    assert set(answer.headers["allow"].split(", ")) <= {"GET", "POST", "HEAD"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        b'"text"',
        b"null",
        b"  ",
        b'{"name": NaN}',
        b'{"name": 1e999}',
        b'{"name": "a", "name": "b"}',
        b'{"name": "\\ud800"}',
        b'{"name": ' + 100_000 * b"[",
        b'{"name": ' + 40 * b"[" + 40 * b"]" + b"}",
        b'{"name": "\xff"}',
        b'{"name": "nul \\u0000"}',
        b"\xef\xbb\xbf{}",
        b'{"requests_per_minute": ' + 5000 * b"9" + b"}",
    ],
)
def test_a_body_that_is_not_strict_json_is_400(api: Api, body: bytes) -> None:
    answer = api.client().post(NEW_KEY, content=body, headers={"Content-Type": "application/json"})
    refused(answer, 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_of_another_kind_is_400_and_never_415(api: Api, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    refused(api.client().post(NEW_KEY, content=b'{"name":"a"}', headers=headers), 400)


def test_an_unknown_field_is_named_with_the_nearest_that_is_known(api: Api) -> None:
    error = refused(api.client().post(NEW_KEY, json={"name": "a", "scope": ["all"]}), 400)
    assert error["param"] == "scope"
    assert error["code"] == "unknown_parameter"
    assert "Did you mean 'scopes'?" in error["message"]


def test_an_unknown_field_within_another_is_named_with_its_place(api: Api) -> None:
    said = {
        "filename": "a.jsonl",
        "purpose": "fine-tune",
        "bytes": 1,
        "mime_type": "text/jsonl",
        "expires_after": {"anchor": "created_at", "secnds": 3600},
    }
    error = refused(api.client().post("/v1/uploads", json=said), 400)
    assert error["param"] == "expires_after.secnds"


def test_a_missing_field_is_named(api: Api) -> None:
    error = refused(api.client().post(NEW_KEY, json={}), 400)
    assert error["param"] == "name"
    assert error["code"] == "missing_required_parameter"


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", 5), ("name", ""), ("requests_per_minute", True), ("requests_per_minute", "5")],
)
def test_a_value_of_the_wrong_type_or_range_is_named(api: Api, field: str, value: object) -> None:
    error = refused(api.client().post(NEW_KEY, json={"name": "a", field: value}), 400)
    assert error["param"] == field


def test_null_is_a_field_left_out(api: Api) -> None:
    sent = {"name": "a", "scopes": None, "expires_at": None}
    answer = api.client().post(NEW_KEY, json=sent)
    assert answer.status_code == 200
    assert answer.json()["scopes"] == ["all"]
    assert api.client().post(NEW_KEY, json={"name": "a", "unknown": None}).status_code == 200
    assert refused(api.client().post(NEW_KEY, json={"name": None}), 400)["param"] == "name"


@pytest.mark.parametrize("content", [None, b""])
def test_an_empty_body_is_fine_where_none_is_needed(api: Api, content: bytes | None) -> None:
    """As the openai client sends cancel, pause and resume."""
    place = "/v1/fine_tuning/jobs/ftjob-0/cancel"
    headers = {"Content-Type": "application/json"}
    error = refused(api.client().post(place, content=content, headers=headers), 404)
    assert error["code"] == "fine_tune_not_found"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=10001", "order=up", "purpose=no"])
def test_a_wrong_parameter_in_the_address_is_400_and_named(api: Api, query: str) -> None:
    error = refused(api.client().get(f"/v1/files?{query}"), 400)
    assert error["param"] == query.partition("=")[0]


@pytest.mark.parametrize("path", ["/v1/files/%00", "/v1/files?after=%00", "/v1/files/a%0ab"])
def test_control_characters_in_an_address_are_400(api: Api, path: str) -> None:
    refused(api.client().get(path), 400)


def test_a_json_body_over_the_limit_is_413(small_api: Api) -> None:
    big = json.dumps({"name": 2_000_000 * "n"}).encode()
    headers = {"Content-Type": "application/json"}
    client = small_api.client()
    refused(client.post(NEW_KEY, content=big, headers=headers), 413)
    pieces = (big[at : at + 65536] for at in range(0, len(big), 65536))
    refused(client.post(NEW_KEY, content=pieces, headers=headers), 413)  # says no length


def test_a_large_body_to_no_route_is_404_in_json(small_api: Api) -> None:
    refused(small_api.client().post("/v1/nothing", content=20_000_000 * b"x"), 404)


def test_t28_a_crash_says_nothing_but_its_number(api: Api) -> None:
    def broken() -> None:
        raise RuntimeError("SECRET-CANARY at /some/place.py")

    api.asgi.add_api_route("/v1/broken", broken)
    answer = api.client().get("/v1/broken")
    error = refused(answer, 500)
    assert error["type"] == "server_error"
    assert "CANARY" not in answer.text
    assert len(answer.headers["x-request-id"]) == 16


def test_every_answer_has_a_number_of_its_own(api: Api) -> None:
    client = api.client()
    assert len({client.get("/v1/files").headers["x-request-id"] for _ in range(5)}) == 5
