"""Who may do what: keys, scopes, and nothing of another project, on every route there is."""

import re
import time
from collections.abc import Callable
from functools import partial

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import select
from starlette.testclient import TestClient
from tests.api.conftest import MODEL, Api, key_for, refused
from tests.serving.conftest import sign_in

from preftune.serving.api.bodies import ApiRoute
from preftune.serving.api.errors import is_api
from preftune.serving.api.limits import Buckets
from preftune.serving.passwords import hash_password
from preftune.serving.security import cookie_name
from preftune.store import api_keys
from preftune.store.api_keys import KINDS, SCOPES
from preftune.store.job_schema import api_keys as key_table
from preftune.store.people import add_person

Route = tuple[str, str]  # method, path with its {names}
UNKNOWN = {  # a place that nobody has; what it must say, and of which field
    "file_id": "file-" + 32 * "0",
    "upload_id": "upload_" + 32 * "0",
    "job_id": "ftjob-" + 32 * "0",
    "key_id": "key-" + 32 * "0",
    "model": "ft:tiny:preftune::12345678",
    "permission_id": "cp_1",
}
NEEDS = {  # scope of the routes under each path, the longest path first
    "/v1/fine_tuning/alpha/graders": "graders",
    "/v1/fine_tuning": "jobs",
    "/v1/chat": "chat",
    "/v1/completions": "chat",
    "/v1/models": "models",
    "/v1/files": "files",
    "/v1/uploads": "files",
    "/v1/keys": "all",
}


def routes(api: Api) -> list[Route]:
    """Every route under /v1, hidden ones too."""
    return sorted(
        (method, str(context.path))
        for context in iter_route_contexts(api.asgi.routes)
        for method in context.methods or ()
        if is_api(str(context.path or "")) and method != "HEAD"
    )


def ask(client: TestClient, route: Route, places: dict[str, str]) -> httpx2.Response:
    """Call a route; its body is a JSON object that no route can use."""
    method, path = route
    where = re.sub(r"\{(\w+)(?::\w+)?\}", lambda name: places[name[1]], path)
    return client.request(method, where, json=None if method == "GET" else {"x": 1})


def test_every_route_reads_bodies_strictly_and_asks_for_the_key_first(api: Api) -> None:
    found = [c for c in iter_route_contexts(api.asgi.routes) if is_api(str(c.path or ""))]
    assert len(found) >= 30
    for context in found:
        assert isinstance(context.original_route, ApiRoute), f"{context.path}: use api_router()"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer pft_wrong-wrong-wrong-wrong-wrong-wrong"},
        {"Authorization": "Basic cGZ0Og=="},
        {"api-key": "pft_wrong"},
        {"Authorization": "Bearer " + 5000 * "k"},
        {"Authorization": "Bearer \xff\xfe"},
    ],
)
def test_t05_without_a_key_that_holds_every_route_is_401(api: Api, headers: dict[str, str]) -> None:
    client = api.with_secret(None)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    for method, path in routes(api):
        where = re.sub(r"\{(\w+)(?::\w+)?\}", "x", path)
        error = refused(client.request(method, where, headers=raw), 401)
        assert error["code"] == "invalid_api_key"
        assert "wrong" not in error["message"]


def test_keys_come_in_either_header(api: Api) -> None:
    assert api.with_secret(None).get("/v1/files", headers={"api-key": api.secret}).is_success
    assert api.client().get("/v1/files").is_success
    odd = {"Authorization": f"bearer  {api.secret} "}
    assert api.with_secret(None).get("/v1/files", headers=odd).is_success


def test_t02_a_key_in_a_cookie_or_an_address_opens_nothing(api: Api) -> None:
    client = api.with_secret(None)
    refused(client.get("/v1/files", params={"api-key": api.secret, "key": api.secret}), 401)
    client.cookies.set("api-key", api.secret)
    refused(client.get("/v1/files"), 401)


def test_t02_a_session_of_an_admin_opens_nothing_under_the_api(api: Api) -> None:
    hashed = hash_password("four unrelated words here")
    add = partial(add_person, email="a@example.org", name="A", password_hash=hashed, is_admin=True)
    client = api.with_secret(None)
    token = sign_in(api.database, api.database.write(add))
    client.cookies.set(cookie_name(api.settings), token)
    for method, path in routes(api):
        refused(client.request(method, re.sub(r"\{[^}]*\}", "x", path)), 401)


@pytest.mark.parametrize("scope", SCOPES)
def test_each_scope_opens_its_own_routes_and_no_other(api: Api, scope: str) -> None:
    client = api.client(scopes=(scope,))
    for route in routes(api):
        method, path = route
        answer = ask(client, route, UNKNOWN)
        kind = next(kind for start, kind in NEEDS.items() if path.startswith(start))
        mine = scope in ("all", kind, f"{kind}:write") or (
            scope == f"{kind}:read" and method == "GET"
        )
        reads_by_post = kind in ("graders", "models") and scope == f"{kind}:read"
        if not mine and not reads_by_post:
            error = refused(answer, 403)
            assert error["code"] == "missing_scope", f"{route}: {error}"
            assert "pft_" not in answer.text
        elif mine:
            assert answer.status_code != 403 or "permissions" in path, f"{route}: {answer.text}"


def test_t07_what_belongs_to_another_project_is_404_like_what_is_not_there(api: Api) -> None:
    theirs = a_project_with_everything(api)
    stranger = api.stranger()
    looked = 0
    for route in routes(api):
        named = re.findall(r"\{(\w+)", route[1])
        if not named or "permissions" in route[1]:
            continue
        said = [ask(stranger, route, places) for places in (theirs, UNKNOWN)]
        statuses = {answer.status_code for answer in said}
        assert len(statuses) == 1, f"{route}: {[answer.text for answer in said]}"
        assert statuses <= {404, 400}, f"{route}: {said[0].text}"
        if route[0] == "GET" or "x" not in said[0].text:
            assert statuses == {404} or said[0].json()["error"]["param"] == "x", route
        for name in named:
            words = [
                a.text.replace(p[name], "ID") for a, p in zip(said, (theirs, UNKNOWN), strict=True)
            ]
            assert words[0] == words[1]
        looked += 1
    assert looked >= 15


def test_t07_lists_show_nothing_of_another_project(api: Api) -> None:
    theirs = a_project_with_everything(api)
    stranger = api.stranger(scopes=("files:read", "jobs:read", "models:read"))
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models"):
        shown = stranger.get(path).text
        assert not [place for place in theirs.values() if place in shown], path
    for after in (theirs["file_id"], theirs["job_id"]):
        foreign = stranger.get("/v1/files", params={"after": after})
        unknown = stranger.get("/v1/files", params={"after": UNKNOWN["file_id"]})
        assert foreign.status_code == unknown.status_code == 400


def test_t07_a_stranger_cannot_use_the_files_of_another_project(api: Api) -> None:
    theirs = a_project_with_everything(api)
    asked = {"model": MODEL, "training_file": theirs["file_id"]}
    foreign = refused(api.stranger().post("/v1/fine_tuning/jobs", json=asked), 400)
    asked["training_file"] = UNKNOWN["file_id"]
    unknown = refused(api.stranger().post("/v1/fine_tuning/jobs", json=asked), 400)
    assert foreign["param"] == unknown["param"] == "training_file"
    theirs_id, nobodys = theirs["file_id"], UNKNOWN["file_id"]
    assert foreign["message"].replace(theirs_id, "") == unknown["message"].replace(nobodys, "")


def a_project_with_everything(api: Api) -> dict[str, str]:
    """Give the project a file, an upload, a job and a key; returns the place of each."""
    rows = b"".join(
        b'{"messages":[{"role":"user","content":"%d"},{"role":"assistant","content":"a"}]}\n' % n
        for n in range(10)
    )
    client = api.client()
    file_id = api.file_id(rows)
    said = {"filename": "b.jsonl", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/jsonl"}
    upload_id = client.post("/v1/uploads", json=said).json()["id"]
    job = client.post("/v1/fine_tuning/jobs", json={"model": MODEL, "training_file": file_id})
    assert job.status_code == 200, job.text
    key, _ = key_for(api.database, api.project_id)
    return UNKNOWN | {
        "file_id": file_id,
        "upload_id": upload_id,
        "job_id": job.json()["id"],
        "key_id": key.id,
    }


def test_t05_an_expired_or_revoked_key_opens_nothing(api: Api) -> None:
    soon, secret = key_for(api.database, api.project_id, expires_s=time.time() + 60)
    assert api.with_secret(secret).get("/v1/files").is_success
    _, secret = key_for(api.database, api.project_id, ago_s=9, expires_s=time.time() - 0.001)
    refused(api.with_secret(secret).get("/v1/files"), 401)
    gone, secret = key_for(api.database, api.project_id)
    client = api.with_secret(secret)
    assert client.get("/v1/files").is_success
    revoke = partial(api_keys.revoke, project_id=api.project_id, key_id=gone.id, now_s=1.0)
    api.database.write(revoke)
    refused(client.get("/v1/files"), 401)
    assert soon.id != gone.id


def test_t21_a_key_sends_so_many_requests_and_is_told_how_long_to_wait(api: Api) -> None:
    _, secret = key_for(api.database, api.project_id, requests_per_minute=3)
    client, other = api.with_secret(secret), api.client()
    assert [client.get("/v1/files").status_code for _ in range(3)] == [200, 200, 200]
    answer = client.get("/v1/files")
    assert refused(answer, 429)["code"] == "rate_limit_exceeded"
    assert 20 >= int(answer.headers["retry-after"]) >= 1  # a third of a minute for each
    assert other.get("/v1/files").is_success


def test_a_bucket_holds_a_minute_and_fills_as_time_passes() -> None:
    buckets = Buckets()
    assert [buckets.wait_s("a", 600) for _ in range(600)] == [0.0] * 600
    wait_s = buckets.wait_s("a", 600)
    assert 0 < wait_s <= 0.1  # ten a second
    time.sleep(0.11)
    assert buckets.wait_s("a", 600) == 0.0
    assert buckets.wait_s("b", 1) == 0.0


def test_the_use_of_a_key_is_written_down_once_a_minute(api: Api) -> None:
    def used_s() -> float | None:
        api.database.write(lambda db: None)  # after what was queued before
        with api.database.read() as db:
            found: float | None = db.scalar(
                select(key_table.c.used_s).where(key_table.c.id == api.key.id)
            )
        return found

    assert used_s() is None
    client = api.client()
    client.get("/v1/files")
    first = used_s()
    assert first is not None
    assert abs(first - time.time()) < 10
    client.get("/v1/files")
    assert used_s() == first
    api.database.write(partial(api_keys.used, key_id=api.key.id, now_s=first - 61))
    client.get("/v1/files")
    assert (used_s() or 0) >= first


def test_scopes_name_every_kind_twice() -> None:
    assert len(SCOPES) == 1 + 2 * len(KINDS)
    allows: Callable[..., bool] = api_keys.allows
    assert allows(("files:write",), "files:read")
    assert not allows(("files:read",), "files:write")
    assert not allows(("files:read", "chat:write"), "jobs:read")
    assert allows(("all",), "jobs:write")
    assert not allows(("files:write",), "all")
